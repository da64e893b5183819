"""How much of the training data is learned from.

supervised_share = tokens with a label / all tokens    over every training example
"""

from collections.abc import Sequence

from qlora.data import Example
from qlora.doctor.facts import Fact
from qlora.doctor.subject import Subject


def measure(subject: Subject) -> list[Fact]:
    """supervised_share."""
    examples = subject.every_example("training")
    labels, tokens = sum(e.num_supervised for e in examples), sum(map(len, examples))
    least = min(examples, key=share)
    detail = (
        f"{labels:,} of {tokens:,} tokens carry a label, in {len(examples):,} examples; fewest in"
        f" {least.source}: {least.num_supervised} of {len(least)}"
    )
    return [Fact("supervised_share", supervised_share(examples), detail=detail)]


def supervised_share(examples: Sequence[Example]) -> float:
    """Labels / tokens."""
    return sum(e.num_supervised for e in examples) / sum(map(len, examples))


def share(example: Example) -> float:
    """Labels / tokens of one example."""
    return example.num_supervised / len(example)
