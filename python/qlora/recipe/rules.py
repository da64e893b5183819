"""What follows from the number of examples and from other settings, each with its reason.

    dropout, weight decay: straight lines over log(examples) between the points of BY_EXAMPLES
    alpha = 2 rank;    with rsLoRA, which divides it by sqrt(rank), 8: also 2 at rank 16
    learning_rate = 10 x full fine-tuning's, divided by sqrt(lora_plus_ratio)

LoRA+ gives B a rate of `lora_plus_ratio` times A's; the square root keeps their geometric mean at
what plain LoRA takes. arXiv 2402.12354 asks for a smaller rate beside the ratio; at 16 this is the
5e-5 of peft's example.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

Point = tuple[int, float]  # examples, value

# Few examples are learned by heart, and noise is all that stands against it.
BY_EXAMPLES: dict[str, tuple[Point, ...]] = {
    "dropout": ((100, 0.15), (1_000, 0.1), (10_000, 0.05), (100_000, 0.0)),
    "weight_decay": ((100, 0.1), (1_000, 0.05), (10_000, 0.01)),
}
DIGITS = {"dropout": 2, "weight_decay": 3}
FEW = 1_000  # examples; below, tuning may not be the best way

ALPHA_PER_RANK = 2.0
USUAL_RANK = 16
FULL_RATE = 2e-5  # what full fine-tuning takes
TIMES_FULL = 10  # an adapter starts from nothing and has far to go
LORA_PLUS = 16.0

Method = Literal["lora", "full", "prompt", "prefix", "bottleneck"]


@dataclass(frozen=True, slots=True)
class Decided:
    """The settings that follow the data unless somebody sets them, all of them known."""

    alpha: float
    dropout: float
    weight_decay: float
    learning_rate: float
    lora_plus_ratio: float


NAMES = tuple(field.name for field in fields(Decided))


@dataclass(frozen=True, slots=True)
class Advice:
    """A value and, for people, why it is this one."""

    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """What the advice depends on; `given` are those of `NAMES` that somebody has set."""

    num_examples: int
    method: Method = "lora"
    rank: int = USUAL_RANK
    rslora: bool = False
    given: Mapping[str, float] | None = None

    def value(self, name: str) -> float | None:
        """As given, if it is."""
        return (self.given or {}).get(name)


def advise(case: Case) -> dict[str, Advice]:
    """Name -> what to take, for all of `NAMES`; of a given setting the value as it is."""
    rules: dict[str, Callable[[Case], Advice]] = {
        "alpha": _alpha,
        "dropout": _by_examples("dropout"),
        "weight_decay": _by_examples("weight_decay"),
        "learning_rate": _learning_rate,
        "lora_plus_ratio": _lora_plus_ratio,
    }
    advice = {}
    for name in NAMES:
        value = case.value(name)
        advice[name] = rules[name](case) if value is None else Advice(value, "as given")
    return advice


def decide(case: Case) -> Decided:
    """The values alone."""
    return Decided(**{name: advice.value for name, advice in advise(case).items()})


def on_the_line(name: str, num_examples: int) -> float:
    """Dropout or weight decay at so many examples; flat before the first point and after the last.

    Rounded, for people: nobody can tell a dropout of 0.0731 from one of 0.07.
    """
    points = BY_EXAMPLES[name]
    at = min(max(num_examples, points[0][0]), points[-1][0])
    (few, high), (many, low) = _around(name, at)
    share = math.log(at / few) / math.log(many / few)
    return round(high + share * (low - high), DIGITS[name])


def _around(name: str, at: int) -> tuple[Point, Point]:
    """The points before and after."""
    return next(pair for pair in pairwise(BY_EXAMPLES[name]) if at <= pair[1][0])


def _by_examples(name: str) -> Callable[[Case], Advice]:
    return lambda case: Advice(on_the_line(name, case.num_examples), _size(name, case.num_examples))


def _size(name: str, num_examples: int) -> str:
    (fewest, _), *_, (most, last) = BY_EXAMPLES[name]
    told = f"{num_examples:,} examples"
    if num_examples <= fewest:
        return f"{told}: the most that helps; fewer examples are learned by heart"
    if num_examples >= most:
        return f"{told}: so many need {'none' if last == 0 else 'little'}"
    (few, high), (many, low) = _around(name, num_examples)
    return f"{told}: between {high:g} at {few:,} and {low:g} at {many:,}"


def _alpha(case: Case) -> Advice:
    if case.rslora:
        alpha = ALPHA_PER_RANK * math.sqrt(USUAL_RANK)
        return Advice(
            alpha, f"rsLoRA: updates count twice at rank {USUAL_RANK}, less at higher ones"
        )
    return Advice(ALPHA_PER_RANK * case.rank, "2 x rank: updates count twice, at any rank")


def _lora_plus_ratio(case: Case) -> Advice:
    if case.method != "lora":
        return Advice(1.0, "of adapters only")
    if case.value("learning_rate") is not None:
        return Advice(1.0, "plain LoRA: the rate was given, and is taken for both factors")
    return Advice(LORA_PLUS, "LoRA+: B starts at zero and lags behind A at one rate for both")


def _learning_rate(case: Case) -> Advice:
    if case.method == "full":
        return Advice(FULL_RATE, "full fine-tuning's usual rate")
    rate = FULL_RATE * TIMES_FULL
    told = f"{TIMES_FULL} x full fine-tuning's {FULL_RATE:.5f}"
    ratio = _ratio_beside(case)
    if ratio == 1:
        return Advice(rate, told)
    rate_of_a = float(f"{rate / math.sqrt(ratio):.3g}")
    told = f"of A; B's is {ratio:g} x that, and their geometric mean {told}"
    return Advice(rate_of_a, told)


def _ratio_beside(case: Case) -> float:
    """The ratio that a rate of the recipe's goes with."""
    given = case.value("lora_plus_ratio")
    return _lora_plus_ratio(case).value if given is None else given
