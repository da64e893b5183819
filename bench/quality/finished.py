"""Finished runs: one JSON file each, and those of the committed record. None is run again.

What calls cost is a file beside them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.quality.plan import CONFIGURATIONS, Run
from qlora.provenance import commit
from qlora_kernels.files import write_text

Results = dict[str, list[dict[str, Any]]]  # configuration -> its results, by seed
MINUTES = 2.5  # of one processor: what a run takes before any was measured
SECONDS = 60
CALLS = "calls.json"


@dataclass(frozen=True)
class Finished:
    """folder: where new ones go; record: where earlier sittings are committed."""

    folder: Path
    record: Path

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def all(self) -> dict[str, dict[str, Any]]:
        """By the run's name; a file here counts more than the record."""
        found = {row["run"]: row for row in self._recorded().get("runs", [])}
        for path in sorted(self.folder.glob("*-seed-*.json")):
            row = json.loads(path.read_text(encoding="utf-8"))
            found[row["run"]] = row
        return found

    def calls(self) -> dict[str, Any] | None:
        """What calls cost (`bench.quality.calls`), if it was measured."""
        path = self.folder / CALLS
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        return self._recorded().get("calls")

    def keep_calls(self, found: Mapping[str, Any]) -> Path:
        """Instead of what was there."""
        return write_text(self.folder / CALLS, json.dumps(found) + "\n")

    def _recorded(self) -> dict[str, Any]:
        if not self.record.exists():
            return {}
        record: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        return record

    def keep(self, run: Run, result: Mapping[str, Any]) -> Path:
        """Write a run's file, whole or not at all."""
        configuration = asdict(run.configuration)
        row = {
            "run": run.name,
            "configuration": run.configuration.name,
            "seed": run.seed,
            "commit": commit(),
            "settings": {k: configuration[k] for k in ("task", "kind", "settings", "num_train")},
            **result,
        }
        return write_text(self.path(run), json.dumps(row, default=str) + "\n")


def by_configuration(rows: Mapping[str, Mapping[str, Any]]) -> Results:
    """In the order of the plan; what the plan no longer has is left out."""
    found: Results = {name: [] for name in CONFIGURATIONS}
    for row in sorted(rows.values(), key=lambda row: row["seed"]):
        if row["configuration"] in found:
            found[row["configuration"]].append(dict(row))
    return found


def estimated_minutes(run: Run, results: Results) -> float:
    """The mean of the same configuration's finished runs, else of its kind's, else MINUTES."""
    same = results[run.configuration.name]
    kind = [
        row
        for name, rows in results.items()
        for row in rows
        if CONFIGURATIONS[name].kind == run.configuration.kind
        and CONFIGURATIONS[name].task == run.configuration.task
    ]
    taken = [row["cpu_seconds"] / SECONDS for row in same or kind]
    return sum(taken) / len(taken) if taken else MINUTES
