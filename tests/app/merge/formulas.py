"""The published formulas on dense float64 vectors, written from the papers and mergekit's docs.

rows: the task vectors [adapters, n]; weights [adapters]. Independent of the package: whole vectors,
sorting, no factors.
"""

import torch


def linear(rows, weights):
    return (weights[:, None] * rows).sum(0) / weights.sum()


def task_arithmetic(rows, weights):
    return (weights[:, None] * rows).sum(0)


def keep_largest(row, density):
    """The floor(density n) entries of largest magnitude."""
    kept = torch.zeros_like(row)
    order = row.abs().argsort(descending=True)[: int(density * len(row))]
    kept[order] = row[order]
    return kept


def agreeing(weighted, weights):
    """mergekit's consensus `sum`: per entry the weighted updates with the sign of their sum."""
    elected = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    mask = (weighted.sign() == elected).double()
    return (weighted * mask).sum(0), (weights[:, None] * mask).sum(0)


def ties_of_mergekit(rows, weights, density):
    """`ties`: sparsify by magnitude, consensus, normalize by the weights that agree."""
    trimmed = torch.stack([keep_largest(row, density) for row in rows])
    total, weight = agreeing(weights[:, None] * trimmed, weights)
    return total / torch.where(weight == 0, 1.0, weight)


def dare_linear(rows, weights, masks, density):
    return (weights[:, None] * rows * masks / density).sum(0)


def dare_ties(rows, weights, masks, density):
    return agreeing(weights[:, None] * rows * masks / density, weights)[0]


def ties_of_the_paper(rows, density):
    """Algorithm 1 of arXiv 2306.01708 on whole models, lambda = 1, every weight 1."""
    trimmed = torch.stack([keep_largest(row, density) for row in rows])
    elected = trimmed.sum(0).sign()
    elected[elected == 0] = elected.sum().sign()  # the published code's majority
    merged = torch.zeros_like(elected)
    for place in range(len(elected)):
        entries = trimmed[:, place]
        same = entries[(entries != 0) & (entries.sign() == elected[place])]
        if len(same):
            merged[place] = same.mean()
    return merged
