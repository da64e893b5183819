"""Base and adapter side by side on several data files: what was learned, and what was lost for it.

    difference = sum_i (adapter_i - base_i) / sum_i n_i      over the examples i of n_i tokens

Both models judge the same examples, so the interval is that of the differences, which is narrow
where they agree: standard error^2 = N / (N - 1) sum_i (d_i - D n_i)^2 / (sum_i n_i)^2, a ratio
estimate's (Cochran, Sampling Techniques, 6.4), and 1.96 of it to each side, which is rough
below 30 examples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qlora.evaluation import Evaluation, ExampleScore

WORSE = math.log(1.01)  # a hundredth more perplexity: less is not worth a sentence
NORMAL_95 = 1.96  # standard errors to each side of 95 % of a normal distribution


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; None for a single example."""

    value: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float:
        """0 where there is no interval."""
        return 0.0 if self.high is None else self.high - self.value


@dataclass(frozen=True)
class Comparison:
    """One slice: the base, the adapter and adapter - base, None without an adapter.

    accuracy: None for plain text.
    """

    base: "Evaluation"
    adapter: "Evaluation | None" = None
    loss: Interval | None = None
    accuracy: Interval | None = None

    @property
    def is_worse(self) -> bool:
        """Whether the adapter's perplexity is a hundredth above the base's, beyond chance."""
        return self.loss is not None and self.loss.low is not None and self.loss.low > WORSE


def compare(
    base: "tuple[Evaluation, Sequence[ExampleScore]]",
    adapter: "tuple[Evaluation, Sequence[ExampleScore]]",
) -> Comparison:
    """Of the same examples in the same order."""
    before, after = base[1], adapter[1]
    losses = paired_difference(
        [score.loss for score in before],
        [score.loss for score in after],
        [score.num_tokens for score in before],
    )
    told = [i for i, score in enumerate(before) if score.exact is not None]
    accuracy = paired_difference(
        [float(before[i].exact or 0) for i in told],
        [float(after[i].exact or 0) for i in told],
        [1] * len(told),
    )
    return Comparison(base[0], adapter[0], losses, accuracy)


def paired_difference(
    before: Sequence[float], after: Sequence[float], sizes: Sequence[int]
) -> Interval | None:
    """(sum(after) - sum(before)) / sum(sizes) with its interval; None for no example."""
    total, count = sum(sizes), len(sizes)
    if not total:
        return None
    changes = [new - old for old, new in zip(before, after, strict=True)]
    mean = sum(changes) / total
    if count < 2:
        return Interval(mean, None, None)
    squares = sum((d - mean * n) ** 2 for d, n in zip(changes, sizes, strict=True))
    reach = NORMAL_95 * math.sqrt(count / (count - 1) * squares) / total
    return Interval(mean, mean - reach, mean + reach)


def rows_of(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """measure, base, adapter, difference: loss, perplexity and exact matches."""
    base, adapter = comparison.base, comparison.adapter
    loss, accuracy = comparison.loss, comparison.accuracy
    rows = [
        (
            "loss",
            f"{base.loss:.4f}",
            f"{adapter.loss:.4f}" if adapter else "",
            f"{loss.value:+.4f} ± {loss.half_width:.4f}" if loss else "",
        ),
        (
            "perplexity",
            f"{base.perplexity:.4g}",
            f"{adapter.perplexity:.4g}" if adapter else "",
            f"x {math.exp(loss.value):.3g}" if loss else "",
        ),
    ]
    if base.accuracy is not None:
        points = (
            f"{100 * accuracy.value:+.1f} ± {100 * accuracy.half_width:.1f}" if accuracy else ""
        )
        found = f"{adapter.accuracy:.1%}" if adapter and adapter.accuracy is not None else ""
        rows.append(("exact match", f"{base.accuracy:.1%}", found, points))
    return rows


def findings(comparisons: Mapping[str, Comparison], files: Mapping[str, object]) -> list[str]:
    """A sentence for each slice that got worse while another got better."""
    worse = {name: c for name, c in comparisons.items() if c.is_worse}
    better = [n for n, c in comparisons.items() if c.loss and c.loss.high and c.loss.high < 0]
    if not better:
        return []
    return [
        f"{name} got worse while {' and '.join(better)} got better: loss"
        f" {c.loss.value:+.3f} (95 % interval {c.loss.low:+.3f} to {c.loss.high:+.3f});"
        f" train again with --replay and examples like {files[name]}, such as those of its training"
        for name, c in worse.items()
        if c.loss is not None
    ]
