"""The records of a call so far, and with `--resume` of the calls before it, run upon run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.kernels import record
from bench.kernels.case import Case
from bench.kernels.pace import LEFT_OUT, Pace
from bench.kernels.record import Record
from bench.kernels.runs import summed
from qlora_kernels.errors import InputError

Key = tuple[str, str]
# What else decides a time.
CONDITIONS = ("device", "threads", "allocator", "isa", "cold_mb", "base")
SAME = ("commit", "versions", "machine")  # without which runs are not runs of one thing


@dataclass
class Kept:
    """Records by what they measured; written whole after each case."""

    path: Path | None = None
    found: dict[Key, Record] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        return list(self.found.values())

    def under(self, settings: Mapping[str, Any]) -> list[Record]:
        """Those of the same conditions."""
        wanted = _conditions(settings)
        return [r for r in self.records if _conditions(r.settings) == wanted]

    def add(self, new: Record) -> None:
        """As one more run of what is there."""
        measured = _measured(new.op, new.case, new.backend, new.settings)
        old = self.found.get((measured, new.against or ""))
        if old is not None:
            new = replace(
                new,
                **summed([*old.runs, *new.runs]),
                not_against={**old.not_against, **new.not_against},
            )
        if new.against:
            self.found.pop((measured, ""), None)  # of a run in which nobody was timed beside us
        self.found[measured, new.against or ""] = new

    def num_runs(
        self, case: Case, backend: str, settings: Mapping[str, Any], names: Sequence[str]
    ) -> int:
        """How often a case was timed against all of those, but for whom it could not be."""
        wanted = _measured(case.op, record.described(case), backend, settings)
        there = {name: r for (measured, name), r in self.found.items() if measured == wanted}
        unfit = {
            name
            for r in there.values()
            for name, reason in r.not_against.items()
            if not reason.startswith(LEFT_OUT)
        }
        counted = [name for name in names if name not in unfit] or list(there)
        return min((len(there[n].runs) if n in there else 0 for n in counted), default=0)

    def write(self) -> None:
        if self.path and self.found:
            record.write(self.path, self.records)


def resumed(path: Path, origin: Mapping[str, Any]) -> Kept:
    """What a file holds; InputError if it was measured by other code or elsewhere."""
    kept = Kept(path)
    for old in record.read(path) if path.exists() else []:
        for name in SAME:
            if old.origin.get(name) != origin[name]:
                raise InputError(
                    f"bench: --resume should go on with the same {name}, {path} has"
                    f" {old.origin.get(name)}, here it is {origin[name]}"
                )
        kept.add(old)
    return kept


def foretold(records: Sequence[Record], backend: str) -> Pace:
    """How long the calls of earlier runs took, under one set of conditions."""
    pace = Pace()
    for r in records:
        case = Case(r.op, **r.case)
        if r.backend == backend:
            pace.note(case, "ours", 1e-3 * r.median_ms)
        if r.against and r.against_ms:
            pace.note(case, r.against, 1e-3 * r.against_ms["median_ms"])
    return pace


def _measured(op: str, case: Mapping[str, Any], backend: str, settings: Mapping[str, Any]) -> str:
    return json.dumps([op, dict(case), backend, _conditions(settings)], sort_keys=True)


def _conditions(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings.get(name) for name in CONDITIONS}
