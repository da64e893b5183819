"""Which examples of a file are held out for validation, a pure function of number and seed."""

import random


def num_held_out(num_examples: int, share: float) -> int:
    """Of so many examples, at least one."""
    return max(1, round(share * num_examples))


def held_out(num_examples: int, num_held: int, seed: int) -> list[int]:
    """Their numbers, counted from 0, in no order."""
    return random.Random(f"{seed}/split").sample(range(num_examples), num_held)
