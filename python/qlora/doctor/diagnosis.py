"""What the doctor says: findings, most certain first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from qlora.doctor.facts import Fact, to_json

Cause = Literal[
    "capacity-too-low",
    "wrong-layers",
    "overfitting",
    "drifted-data",
    "learning-rate-too-high",
    "learning-rate-too-low",
    "masked-labels",
    "frozen-adapters",
    "poisoned-batch",
    "unknown-script",
    "quantization-brittle",
    "forgetting",
    "stopped-too-early",
]


@dataclass(frozen=True)
class Finding:
    """One cause that the facts speak for. confidence: in (0, 1), for minus against.

    ruled_out: other causes of the same symptom, and why it is none of them. fix: one line, a flag
    to set. experiment: what would confirm the finding. next_steps:
    what to do if the fix does not help, to the end. unsettled: what it could be as well, and
    the measurement that would tell.
    """

    cause: Cause
    confidence: float
    title: str
    evidence: tuple[str, ...]
    ruled_out: tuple[tuple[str, str], ...]
    fix: str
    experiment: str
    next_steps: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """findings: by confidence, none for a healthy run. looked_at: what was checked in words."""

    findings: tuple[Finding, ...]
    facts: Mapping[str, Fact] = field(default_factory=dict)
    looked_at: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Nothing to accuse."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """What doctor.json holds."""
        return {
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": to_json(self.facts),
            "looked_at": self.looked_at,
            "not_measured": self.not_measured,
        }
