"""Intervals and tests without assumptions about distributions, over examples, by seed.

Tokens of one example depend on each other, so examples are drawn and never tokens. All that is
needed of an example is a row of sums (of losses, of tokens): what is drawn are totals of them.
"""

import torch
from torch import Tensor

DRAWS = 2_000
COVERAGE = 0.95
FEWEST = 5  # examples; of fewer, a bootstrap knows little more than their mean


def bootstrap_totals(sums: Tensor, seed: int, draws: int = DRAWS) -> Tensor:
    """Totals of as many rows, drawn with replacement: sums [n, c] -> [draws, c], float64."""
    generator = torch.Generator().manual_seed(seed)
    count = len(sums)
    chosen = torch.randint(count, (draws, count), generator=generator)
    weights = torch.zeros(draws, count, dtype=torch.float64)
    weights.scatter_add_(1, chosen, torch.ones_like(weights))
    return weights @ sums.double()


def subset_totals(sums: Tensor, size: int, seed: int, draws: int = DRAWS) -> Tensor:
    """Totals of `size` of the rows, drawn without replacement: sums [n, c] -> [draws, c]."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(draws, len(sums), generator=generator).argsort(dim=1)
    weights = torch.zeros(draws, len(sums), dtype=sums.dtype)
    weights.scatter_(1, order[:, :size], 1.0)
    return weights @ sums


def interval(draws: Tensor, examples: int) -> tuple[float | None, float | None]:
    """The middle 95 % of what was drawn; none for a handful of examples, where it says nothing."""
    if examples < FEWEST:
        return None, None
    tail = (1 - COVERAGE) / 2
    low, high = draws.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(low), float(high)


def probability(observed: float, draws: Tensor) -> float:
    """`p = (1 + draws that are as large) / (1 + draws)`, never 0 (Phipson and Smyth, 2010).

    A draw counts as large as what was observed where only rounding tells them apart.
    """
    rounding = 1e-9 * max(abs(observed), float(draws.abs().max()))
    return (1 + int((draws >= observed - rounding).sum())) / (1 + len(draws))
