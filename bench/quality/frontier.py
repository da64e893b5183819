"""Trained parameters against accuracy, memory and forgetting: one table, one picture."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.merging.table import markdown
from bench.quality.cells import MISSING, told, told_share
from bench.quality.finished import Results
from bench.quality.intervals import interval
from bench.quality.plan import CONFIGURATIONS

REFERENCE = "few-shot"  # its runs read English and a single prompt with the untrained 16-bit model
NOTHING = 1e-3  # percent: where the picture puts what trains nothing


@dataclass(frozen=True)
class Member:
    """merges: what becomes of it when nobody trains any more. tokens: more in each call."""

    merges: str
    tokens: str = "0"


MEMBERS: Mapping[str, Member] = {
    "few-shot": Member("no", "the examples"),
    "prompt": Member("no", "16"),
    "prefix": Member("no", "16, as keys and values"),
    "bottleneck": Member("no: it is not linear"),
    "lora": Member("yes"),
    "qlora": Member("yes, into 16 bits; into 4 bits with a loss"),
    "dora": Member("yes, as QLoRA"),
    "full": Member("it is the model"),
}
HEAD = (
    "", "trained", "right", "loss", "forgotten", "peak MiB", "call / base's", "tokens a call",
    "merges",
)  # fmt: skip


def table(results: Results) -> str:
    """Markdown; a member without a run is shown as missing."""
    return markdown(HEAD, [_line(name, results) for name in MEMBERS])


def _line(name: str, results: Results) -> list[str]:
    rows, member = results[name], MEMBERS[name]
    title = CONFIGURATIONS[name].title
    if not rows:
        return [title, *[MISSING] * 6, member.tokens, member.merges]
    tokens = [row["prompt_tokens"] for row in rows if "prompt_tokens" in row]
    return [
        title,
        f"{trained_percent(rows, results):.3g} %",
        told_share(rows, "right"),
        told(rows, "loss"),
        told(forgotten(rows, results), "forgotten"),
        told(rows, "peak_mib", ".0f"),
        told(_calls(rows, results), "times", ".2f"),
        f"{statistics.mean(tokens):.0f}, with the question" if tokens else member.tokens,
        member.merges,
    ]


def trained_percent(rows: Sequence[Mapping[str, Any]], results: Results) -> float:
    """Of the dense model's weights."""
    if not rows[0].get("trained"):
        return 0.0
    return float(100 * rows[0]["trained"] / rows[0]["weights"])


def forgotten(rows: Sequence[Mapping[str, Any]], results: Results) -> list[dict[str, Any]]:
    """Nats per token of English more than the untrained model in 16 bits; none without its run."""
    known = [row["english"] for row in results[REFERENCE]]
    return [{"forgotten": row["english"] - known[0]} for row in rows] if known else []


def _calls(rows: Sequence[Mapping[str, Any]], results: Results) -> list[dict[str, Any]]:
    plain = [row["plain_call_seconds"] for row in results[REFERENCE]]
    if not plain:
        return []
    base = statistics.median(plain)
    return [{"times": row["call_seconds"] / base} for row in rows]


def plot(results: Results, path: Path) -> Path:
    """Left: trained share against right answers. Right: right answers against what is forgotten.

    The area of a point is its peak memory; bars are intervals over the seeds.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in MEMBERS:
        if rows := results[name]:
            _point(left, right, (name, rows, results))
    left.set(xscale="log", xlabel="trained parameters, % (0 at the left edge)")
    right.set(xlabel="forgotten: nats per token of plain English")
    for axes in (left, right):
        axes.set_ylabel("right answers, %")
        axes.grid(alpha=0.3)
    figure.suptitle("area: peak memory of training")
    figure.savefig(path, dpi=110)
    return path


def _point(left: Any, right: Any, what: tuple[str, Sequence[Mapping[str, Any]], Results]) -> None:
    name, rows, results = what
    percent = max(NOTHING, trained_percent(rows, results))
    share = interval([100 * row["right"] for row in rows])
    area = statistics.mean(row.get("peak_mib", 0) for row in rows) / 10 + 20
    places = [(left, percent)]
    if lost := forgotten(rows, results):
        places.append((right, statistics.mean(row["forgotten"] for row in lost)))
    for axes, x in places:
        axes.errorbar(x, share.mean, yerr=share.half or 0, color="gray", zorder=1)
        axes.scatter(x, share.mean, s=area, label=name, zorder=2)
        # Adapters lie close to each other: their names go below each other.
        below = 12 * (list(MEMBERS).index(name) % 3 - 1)
        axes.annotate(name, (x, share.mean), xytext=(8, below), textcoords="offset points")
