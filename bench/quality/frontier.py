"""Trained parameters against accuracy, memory and forgetting: one table, one picture."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.quality.cells import counted, ran_table, told, told_share
from bench.quality.finished import Results
from bench.quality.plan import CONFIGURATIONS

REFERENCE = "few-shot"  # its runs read English with the untrained 16-bit model
BASE = "base"  # that model in what calls cost


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
    "merges", "seeds",
)  # fmt: skip


Seconds = Mapping[str, Sequence[float]]  # of a call, by member and round


def table(results: Results, seconds: Seconds) -> str:
    """Markdown; members without a run are named below."""
    lines = [_line(name, results, seconds) for name in MEMBERS if results[name]]
    absent = [CONFIGURATIONS[name].title for name in MEMBERS if not results[name]]
    return ran_table(HEAD, lines, absent)


def _line(name: str, results: Results, seconds: Seconds) -> list[str]:
    rows, member = results[name], MEMBERS[name]
    tokens = [row["prompt_tokens"] for row in rows if "prompt_tokens" in row]
    return [
        CONFIGURATIONS[name].title,
        f"{trained_percent(rows, results):.3g} %",
        told_share(rows, "right"),
        told(rows, "loss"),
        told(forgotten(rows, results), "forgotten"),
        told(rows, "peak_mib", ".0f"),
        times_the_base(seconds, name),
        f"{statistics.mean(tokens):.0f}, with the question" if tokens else member.tokens,
        member.merges,
        counted(rows),
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


def times_the_base(seconds: Seconds, name: str) -> str:
    """`1.06 (1.04-1.09)`: median and p20-p80 of a member's time over the base's, by rounds."""
    if name not in seconds:
        return "-"
    ratios = [s / base for s, base in zip(seconds[name], seconds[BASE], strict=True)]
    fifths = statistics.quantiles(ratios, n=5, method="inclusive")
    return f"{statistics.median(ratios):.2f} ({fifths[0]:.2f}-{fifths[-1]:.2f})"
