"""Which examples a measurement looks at, and in which batches the model sees them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qlora.data import Example

# Parameters x tokens of a set: with five or six passes, about two minutes on two cores.
WORK = 5e11
FEWEST, MOST = 2_048, 16_384
BATCH_TOKENS = 2_048  # padding included


@dataclass(frozen=True)
class Budget:
    """Tokens that are looked at in each set of examples, and the seed of everything drawn."""

    tokens: int
    seed: int = 0

    @staticmethod
    def for_model(num_parameters: int, seed: int = 0) -> "Budget":
        """The larger the model, the fewer tokens: `clip(5e11 / parameters, 2048, 16384)`."""
        return Budget(int(min(max(WORK / max(1, num_parameters), FEWEST), MOST)), seed)


def sample(examples: Sequence[Example], budget: Budget) -> list[Example]:
    """Examples in file order, drawn at random until the budget's tokens are spent; at least one."""
    order = list(range(len(examples)))
    random.Random(f"{budget.seed}/doctor").shuffle(order)
    chosen, spent = list[int](), 0
    for index in order:
        if chosen and spent + len(examples[index]) > budget.tokens:
            break
        chosen.append(index)
        spent += len(examples[index])
    return [examples[index] for index in sorted(chosen)]


def batches(examples: Sequence[Example], tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices of examples of similar length, at most `tokens` of them with padding."""
    batch: list[int] = []
    for index in sorted(range(len(examples)), key=lambda index: len(examples[index])):
        if batch and (len(batch) + 1) * len(examples[index]) > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
