"""Whether validation, or a file of recent examples, is of another kind than the training data.

    drift        = loss of the base there - loss of the base on training examples
    tokens       = JSD(p, q) - what it is for random splits, in bits
    JSD(p, q)    = H((p + q) / 2) - (H(p) + H(q)) / 2    of the frequencies of tokens
    loss increase = loss of the tuned model on recent - on training examples

The base has seen neither, so a difference of its losses lies in the data and not in training. Its
interval is a bootstrap over examples, its probability that of a permutation test: how often random
splits differ as much. Two sets can be equally hard and yet of other words: the token frequencies
see that, and miss what only order tells. Random splits are not 0 apart, since each holds words that
the other lacks; their mean is taken off, and 1 bit is no word in common.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qlora.data import Example
from qlora.doctor.facts import Fact
from qlora.doctor.resampling import bootstrap_totals, interval, probability, subset_totals
from qlora.doctor.samples import Budget, sample
from qlora.doctor.subject import Set, Subject

WORDS = (
    65_536  # tokens of each set that are counted: no model looks at them, so more than elsewhere
)
MOST = 512  # examples of each set
DEALS = 500  # random splits of token counts, which are wide


def measure_validation(subject: Subject) -> list[Fact]:
    """drift_validation: the difference, its probability, and the distance of token frequencies."""
    return drift(subject, "validation")


def measure_recent(subject: Subject) -> list[Fact]:
    """drift_recent, and what the tuned model loses there; nothing without a recent file."""
    if subject.recent_file is None:
        return []
    training = subject.losses("training", tuned=True)
    recent = subject.losses("recent", tuned=True)
    value, bounds = difference(recent.sums, training.sums, subject.budget.seed)
    detail = (
        f"the tuned model has {recent.mean:.3f} nats a token on {subject.recent_file.name},"
        f" {training.mean:.3f} on training examples"
    )
    return [*drift(subject, "recent"), Fact("recent_loss_increase", value, *bounds, detail)]


def drift(subject: Subject, name: Set) -> list[Fact]:
    """The four facts of a set against the training examples."""
    seed = subject.budget.seed
    training, other = (subject.losses(s, tuned=False) for s in ("training", name))
    value, bounds = difference(other.sums, training.sums, seed)
    by_chance = difference_probability(other.sums, training.sums, seed)
    told = f"the base has {other.mean:.3f} nats a token on {name}, {training.mean:.3f} on training"
    detail = (
        f"{told} examples; split at random, {len(other.sizes)} and {len(training.sizes)} examples"
        f" differ as much with probability {by_chance:.2g}"
    )
    budget = Budget(WORDS, seed)
    counts = token_counts(
        sample(subject.every_example(name), budget)[:MOST],
        sample(subject.every_example("training"), budget)[:MOST],
    )
    distance, words_by_chance = frequency_distance(*counts, seed)
    words = (
        f"tokens are {distance:.3f} bits further from training than random splits are (1: none in"
        f" common), probability {words_by_chance:.2g}"
    )
    return [
        Fact(f"drift_{name}", value, *bounds, detail),
        Fact(f"drift_{name}_probability", by_chance, detail=detail),
        Fact(f"drift_{name}_tokens", distance, detail=words),
        Fact(f"drift_{name}_tokens_probability", words_by_chance, detail=words),
    ]


def difference(
    first: Tensor, second: Tensor, seed: int
) -> tuple[float, tuple[float | None, float | None]]:
    """Loss per token of the first less that of the second, and its interval; sums [n, 2]."""
    value = float(_ratio(first.sum(0)) - _ratio(second.sum(0)))
    drawn = _ratio(bootstrap_totals(first, seed)) - _ratio(bootstrap_totals(second, seed + 1))
    return value, interval(drawn, min(len(first), len(second)))


def difference_probability(first: Tensor, second: Tensor, seed: int) -> float:
    """How often random splits of all examples differ as much, either way; sums [n, 2]."""
    both = torch.cat([first, second])
    dealt = subset_totals(both, len(first), seed)
    differences = _ratio(dealt) - _ratio(both.sum(0) - dealt)
    observed = float(_ratio(first.sum(0)) - _ratio(second.sum(0)))
    return probability(abs(observed), differences.abs())


def token_counts(first: Sequence[Example], second: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """How often each example has each token that occurs, [examples, tokens] each."""
    examples = [*first, *second]
    ids = torch.tensor([token for example in examples for token in example.input_ids])
    _, place = ids.unique(return_inverse=True)
    owner = torch.repeat_interleave(torch.tensor([len(example) for example in examples]))
    counts = torch.zeros(len(examples), int(place.max()) + 1)
    counts.index_put_((owner, place), torch.ones(len(ids)), accumulate=True)
    return counts[: len(first)], counts[len(first) :]


def frequency_distance(first: Tensor, second: Tensor, seed: int) -> tuple[float, float]:
    """JSD of the totals less its mean over random splits, in bits; and its probability."""
    both = torch.cat([first, second])
    dealt = subset_totals(both, len(first), seed, DEALS)
    split = jensen_shannon(dealt, both.sum(0) - dealt)
    observed = float(jensen_shannon(first.sum(0), second.sum(0)))
    return observed - float(split.mean()), probability(observed, split)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """JSD in bits of frequencies that are told as counts [..., tokens]."""
    p, q = (counts / counts.sum(-1, keepdim=True) for counts in (first, second))
    mixed = torch.special.entr((p + q) / 2).sum(-1)
    apart = torch.special.entr(p).sum(-1) + torch.special.entr(q).sum(-1)
    bits: Tensor = (mixed - apart / 2) / math.log(2)
    return bits


def _ratio(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]
