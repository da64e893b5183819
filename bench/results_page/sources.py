"""The committed records: what each file under bench/results holds, and where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
REHEARSAL = "cpu-interpreter"  # `make gpu GPU_DEVICE=cpu-interpreter`: its times mean nothing
UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Source:
    """One file: a study's record (.json), or many of one kernel benchmark (.jsonl).

    origin: the record, or the first of them: its commit, date, versions and machine count for all.
    """

    path: Path  # below bench/results
    records: tuple[Mapping[str, Any], ...]

    @property
    def origin(self) -> Mapping[str, Any]:
        return self.records[0]

    @property
    def is_of_kernels(self) -> bool:
        return self.path.suffix == ".jsonl"

    @property
    def machine(self) -> str:
        """The heading under which it stands."""
        machine = self.origin.get("machine")
        if machine is None:
            return f"Machine {UNKNOWN}"
        gpu = machine.get("gpu")
        return f"{gpu}, " * bool(gpu) + f"{machine['cpu']}, {machine['cores']} cores"

    @property
    def told_origin(self) -> str:
        """Commit, date and versions in one line; all of them where the records differ."""
        commits = [str(r.get("commit", UNKNOWN)) for r in self.records]
        dates = [str(r.get("date", UNKNOWN)) for r in self.records]
        found = self.origin.get("versions", {})
        versions = ", ".join(f"{name} {number}" for name, number in found.items())
        listed = (", ".join(dict.fromkeys(words)) for words in (commits, dates))
        return "Commit {}, date {}; {}.".format(*listed, versions or f"versions {UNKNOWN}")


def sources(results: Path) -> list[Source]:
    """Every record below a folder of results: kernels first, then by path."""
    paths = sorted(p for p in results.rglob("*.json*") if REHEARSAL not in p.parts)
    found = [Source(path.relative_to(results), _read(path)) for path in paths]
    return sorted((s for s in found if s.records), key=lambda source: not source.is_of_kernels)


def _read(path: Path) -> tuple[Mapping[str, Any], ...]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":  # others may stand there: outcomes of tests, say
        lines = [json.loads(line) for line in text.splitlines() if line]
        return tuple(line for line in lines if isinstance(line, dict) and "median_ms" in line)
    whole = json.loads(text)
    return (whole,) if isinstance(whole, dict) else ()
