"""Finished runs: one JSON file each, and those of the committed record. None is run again."""

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


@dataclass(frozen=True)
class Finished:
    """folder: where new ones go; record: where earlier sittings are committed."""

    folder: Path
    record: Path

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def all(self) -> dict[str, dict[str, Any]]:
        """By the run's name; a file here counts more than the record."""
        found: dict[str, dict[str, Any]] = {}
        if self.record.exists():
            record = json.loads(self.record.read_text(encoding="utf-8"))
            found |= {row["run"]: row for row in record["runs"]}
        for path in sorted(self.folder.glob("*.json")):
            row = json.loads(path.read_text(encoding="utf-8"))
            found[row["run"]] = row
        return found

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
