"""What the literature claims, as comparisons of two configurations; verdicts follow from intervals.

A claim is judged by right answers and by loss: the first is what people want, the second sees
smaller differences. Where a baseline ran at several rates, its best (by mean right answers) counts.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.quality.finished import Results
from bench.quality.intervals import Interval, Kind, Verdict, interval, paired, verdict

# metric -> (+1 where more is better, what counts as no worse)
METRICS: Mapping[str, tuple[int, float]] = {
    "right": (1, 0.02),
    "loss": (-1, 0.05),
    "python_right": (1, 0.02),
    "python": (-1, 0.02),
    "english": (-1, 0.02),
    "python_over_english": (1, 0.0),
    "steps_to_target": (-1, 0.0),
}
TARGET_STEP = 40  # the target is the validation loss that plain LoRA has then


@dataclass(frozen=True)
class Claim:
    """`subject` does better than `rival`, or no worse; each the best of some configurations."""

    text: str
    source: str
    kind: Kind
    subject: tuple[str, ...]
    rival: tuple[str, ...]
    metrics: tuple[str, ...] = ("right", "loss")


@dataclass(frozen=True)
class Judgement:
    """gain: of the subject over its rival, by metric; None where a run is missing.

    silent: metrics by which neither ever gets anything right, so that they decide nothing.
    """

    claim: Claim
    gains: Mapping[str, Interval | None] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


QLORA, LORA = ("qlora",), ("lora",)
FULL = ("full", "full-3e-4")
_BASES = ("python_right", "python", "english")
CLAIMS = (
    Claim("QLoRA is no worse than LoRA over 16 bits", "QLoRA", "no worse", QLORA, LORA),
    Claim(
        "QLoRA is no worse than LoRA over 16 bits, on Python",
        "QLoRA",
        "no worse",
        ("python-qlora",),
        ("python-lora",),
    ),
    Claim(
        "LoRA of rank 16 on all linear layers is no worse than full fine-tuning",
        "QLoRA",
        "no worse",
        LORA,
        FULL,
    ),
    Claim(
        "rank 4 on attention alone is no worse than full fine-tuning",
        "LoRA",
        "no worse",
        ("attention-r4",),
        FULL,
    ),
    Claim(
        "rank 16 on all linear layers does better than rank 4 on attention alone",
        "QLoRA",
        "better",
        QLORA,
        ("attention-r4",),
    ),
    Claim("rank 1 is no worse than rank 16", "LoRA", "no worse", ("r1",), QLORA),
    Claim("rank 4 is no worse than rank 16", "LoRA", "no worse", ("r4",), QLORA),
    Claim("rank 64 does better than rank 16", "common advice", "better", ("r64",), QLORA),
    Claim(
        "all linear layers do better than q and v, at equal parameters",
        "QLoRA",
        "better",
        QLORA,
        ("qv-r85",),
    ),
    Claim(
        "feed-forward does better than q and v, at equal parameters",
        "common advice",
        "better",
        ("ffn-r26",),
        ("qv-r85",),
    ),
    Claim("DoRA does better than LoRA", "DoRA", "better", ("dora",), QLORA),
    Claim(
        "DoRA does better than LoRA, on Python",
        "DoRA",
        "better",
        ("python-dora",),
        ("python-qlora",),
    ),
    Claim(
        "LoRA+ needs fewer steps than LoRA to the same loss",
        "LoRA+",
        "better",
        ("lora-plus", "lora-plus-3e-3"),
        ("qlora", "lora-3e-3"),
        ("steps_to_target",),
    ),
    Claim(
        "LoRA+ ends better than LoRA",
        "LoRA+",
        "better",
        ("lora-plus", "lora-plus-3e-3"),
        ("qlora", "lora-3e-3"),
    ),
    Claim(
        "dropout 0.1 does better for rank 32 on 64 rows",
        "common advice",
        "better",
        ("small-r32-dropout",),
        ("small-r32",),
    ),
    Claim(
        "weight decay 0.1 beside dropout does better still",
        "common advice",
        "better",
        ("small-r32-both",),
        ("small-r32-dropout",),
    ),
    Claim(
        "NF4 does better than FP4, untrained",
        "QLoRA",
        "better",
        ("base-nf4",),
        ("base-fp4",),
        _BASES,
    ),
    Claim(
        "NF4 does better than FP4, trained",
        "QLoRA",
        "better",
        QLORA,
        ("tuned-fp4",),
    ),
    Claim(
        "int8 is no worse than 16 bits, untrained",
        "LLM.int8()",
        "no worse",
        ("base-int8",),
        ("base-none",),
        _BASES,
    ),
    Claim(
        "nf4-tuned does better than NF4, untrained",
        "ours",
        "better",
        ("base-nf4-tuned",),
        ("base-nf4",),
        _BASES,
    ),
    Claim(
        "code loses more by NF4 than English does",
        "common advice",
        "better",
        ("base-nf4",),
        ("base-none",),
        ("python_over_english",),
    ),
)


def judge(results: Results) -> Iterator[Judgement]:
    """Every claim."""
    results = with_derived(results)
    for claim in CLAIMS:
        subject, rival = best(results, claim.subject), best(results, claim.rival)
        gains: dict[str, Interval | None] = {}
        verdicts: dict[str, Verdict] = {}
        for metric in claim.metrics:
            sign, margin = METRICS[metric]
            found = [sign * d for d in paired(results[subject], results[rival], metric)]
            gains[metric] = interval(found) if found else None
            verdicts[metric] = verdict(found, claim.kind, margin)
        both = [*results[subject], *results[rival]]
        silent = frozenset(metric for metric in claim.metrics if _is_silent(both, metric))
        verdicts |= {m: "undecided" for m in silent if verdicts[m] != "not yet run"}
        yield Judgement(claim, gains, verdicts, silent)


def _is_silent(rows: Sequence[Mapping[str, Any]], metric: str) -> bool:
    return metric.endswith("right") and not any(row.get(metric) for row in rows)


def best(results: Results, names: Sequence[str]) -> str:
    """Of the configurations, the one with most right answers on average; the first if none ran."""

    def right(name: str) -> float:
        values = [row["right"] for row in results[name] if row.get("right") is not None]
        return statistics.mean(values) if values else -1.0

    return max(names, key=right) if len(names) > 1 else names[0]


def with_derived(results: Results) -> Results:
    """With the metrics that compare two figures of a run, or a run with another."""
    plain = {row["seed"]: _loss_at(row, TARGET_STEP) for row in results["qlora"]}
    derived: Results = {}
    for name, rows in results.items():
        derived[name] = []
        for row in rows:
            extra: dict[str, Any] = {}
            if "python" in row and "english" in row:
                extra["python_over_english"] = row["python"] - row["english"]
            target = plain.get(row["seed"])
            if target is not None and "validation" in row:
                extra["steps_to_target"] = steps_to(row["validation"], target)
            derived[name].append({**row, **extra})
    return derived


def _loss_at(row: Mapping[str, Any], step: int) -> float | None:
    return next((loss for at, loss in row.get("validation", []) if at == step), None)


def steps_to(curve: Sequence[Sequence[float]], target: float) -> float:
    """The step at which a validation curve first reaches the target, between points by a line.

    A curve that never does counts as having needed all its steps, which flatters it.
    """
    before: Sequence[float] | None = None
    for point in curve:
        step, loss = point
        if loss <= target:
            if before is None:
                return step
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (step - before[0])
        before = point
    return curve[-1][0]
