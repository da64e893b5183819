"""Claims and what came of them, for the page and for the record; what did not run is listed."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.merging.table import markdown
from bench.quality.cells import told_interval
from bench.quality.claims import CLAIMS, METRICS, TARGET_STEP, Claim, Judgement, judge
from bench.quality.finished import Results
from bench.quality.intervals import FEWEST
from bench.quality.plan import SEEDS

NAMES = {
    "right": "right",
    "loss": "loss",
    "python_right": "lines right",
    "python": "loss on Python",
    "english": "loss on English",
    "python_over_english": "loss on Python over English",
    "steps_to_target": "steps",
}
NOT_SHOWN = "not shown"


def claims_table(results: Results) -> str:
    """A line per claim and metric whose two sides share a seed; below, what is missing."""
    judged = list(judge(results))
    lines = [line for judgement in judged for line in _lines(judgement, results)]
    missing = [j.claim.text for j in judged if not any(j.gains.values())]
    parts = [markdown(["claim", "source", "by", "gain", "seeds", "verdict"], lines)] * bool(lines)
    parts += [f"Not run yet, on one side or both: {'; '.join(missing)}."] * bool(missing)
    return "\n\n".join(parts)


def claim_rows(judgement: Judgement) -> Iterator[dict[str, Any]]:
    """For the record: a row per metric."""
    for metric, gain in judgement.gains.items():
        ends = (None, None, None) if gain is None else (gain.mean, gain.low, gain.high)
        yield {
            "claim": judgement.claim.text,
            "by": NAMES[metric],
            **dict(zip(("gain", "low", "high"), ends, strict=True)),
            "seeds": 0 if gain is None else gain.count,
            "verdict": judgement.verdicts[metric],
        }


def _lines(judgement: Judgement, results: Results) -> Iterator[list[str]]:
    names = [judgement.claim.text + _rates_missing(judgement.claim, results)]
    names += [judgement.claim.source]
    for metric, gain in judgement.gains.items():
        if gain is None:
            continue
        if metric in judgement.silent:
            shown = "neither has any"
        elif "right" in metric:
            shown = f"{told_interval(gain.times(100), '+.1f')} points"
        else:
            shown = told_interval(gain, "+.1f" if metric == "steps_to_target" else "+.3f")
        verdict = judgement.verdicts[metric] if gain.count >= FEWEST else NOT_SHOWN
        yield [*names, NAMES[metric], shown, f"{gain.count} of {len(SEEDS)}", verdict]
        names = ["", ""]


def _rates_missing(claim: Claim, results: Results) -> str:
    """Where a side is the best of several rates, how many of them there are."""
    for side in (claim.subject, claim.rival):
        there = sum(bool(results[name]) for name in side)
        if there < len(side):
            return f" ({there} of {len(side)} rates ran)"
    return ""


def explained() -> str:
    """What the words of the table mean."""
    margins = "; ".join(
        f"{NAMES[metric]} {margin:g}"
        for metric, (_, margin) in METRICS.items()
        if margin and _is_a_margin(metric, CLAIMS)
    )
    return (
        "gain: of the claim's subject over its rival in the same seeds, positive where it does"
        " better. held: the interval lies above 0, for `no worse` above minus the margin"
        f" ({margins}); refuted: below; undecided: it contains the border; {NOT_SHOWN}: fewer than"
        f" {FEWEST} seeds on both sides. steps: to the validation loss that LoRA has after"
        f" {TARGET_STEP} steps."
    )


def _is_a_margin(metric: str, claims: Sequence[Claim]) -> bool:
    return any(claim.kind == "no worse" and metric in claim.metrics for claim in claims)
