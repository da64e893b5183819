"""What a GPU should reach, by name: reported beside what it reached, never asserted."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    """At least so much in one field of an op's records."""

    name: str
    op: str
    field: str  # of a record: ratio or share_of_roof
    least: float
    against: str | None = None  # the peer of a ratio
    format: str | None = None

    def told(self, records: list[Mapping[str, Any]]) -> str:
        found = [record[self.field] for record in records if self._is_meant(record)]
        wanted = f"{self.name}: should be at least {self.least:g}"
        if not found:
            return f"{wanted}, was not timed"
        return f"{wanted}, was {min(found):.2f}{'' if min(found) >= self.least else ': missed'}"

    def _is_meant(self, record: Mapping[str, Any]) -> bool:
        return (
            record["op"] == self.op
            and self.against in (None, record["against"])
            and self.format in (None, record["case"].get("format"))
            and record[self.field] is not None
        )


GOALS = (
    Goal("adamw8bit, share of copy bandwidth", "adamw8bit", "share_of_roof", 0.6, format="8bit"),
    Goal("adamw8bit, times bitsandbytes", "adamw8bit", "ratio", 5.0, "bitsandbytes", "8bit"),
    Goal(
        "adamw8bit, paged by pinned memory", "adamw8bit", "ratio", 1.0, "bitsandbytes", "paged8bit"
    ),
)


def goals_told(whole: Path) -> Iterator[str]:
    """One line per goal, from the records of a run."""
    lines = whole.read_text(encoding="utf-8").splitlines() if whole.exists() else []
    records = [json.loads(line) for line in lines if line]
    for goal in GOALS:
        yield goal.told(records)
