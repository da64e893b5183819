"""What to merge and how, as one frozen value that prints itself."""

from dataclasses import dataclass, fields
from typing import Literal

from qlora.merge.methods import METHODS
from qlora.merge.rank import check_rank
from qlora.settings import key, setting
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError


@dataclass(frozen=True)
class MergeSpec:
    """merged = lambda * method(weights, updates), written with as many directions as `rank` says.

    Raises InputError for an unknown method (with the nearest known one), values out of range, and
    options that the method does not use.
    """

    method: str = setting("average", f"one of {', '.join(METHODS)}")
    weights: tuple[float, ...] = setting((), "one number per adapter, any sign: 1.5,0.8,-0.5")
    density: float = setting(0.2, "ties, dare, dare-ties: share of the entries that is kept")
    trim_scope: Literal["model", "tensor"] = setting(
        "model", "ties: the largest entries of the whole adapter, or of each layer"
    )
    lambda_: float = setting(1.0, "factor on the merged update")
    seed: int = setting(0, "dare, dare-ties: of the entries that are dropped")
    rank: str = setting("full", "of the result: 16, full or energy:0.99")

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.method not in METHODS:
            known = f"should be one of {', '.join(METHODS)}"
            hint = did_you_mean(self.method, METHODS)
            raise InputError(f"merge: method {known}, was {self.method!r}{hint}")
        if not 0.0 < self.density <= 1.0:
            raise InputError(f"merge: density should be in (0, 1], was {self.density:g}")
        if not all(abs(number) < float("inf") for number in (*self.weights, self.lambda_)):
            raise InputError("merge: weights and lambda should be finite, were not")
        check_rank(self.rank)
        used = METHODS[self.method].options
        for item in fields(self):
            optional = item.name in ("density", "trim_scope", "seed")
            given = getattr(self, item.name) != item.default
            if optional and given and item.name not in used:
                raise InputError(f"merge: {self.method} should not be given {item.name}, was")

    def weights_for(self, count: int) -> tuple[float, ...]:
        """One weight per adapter, 1 each unless given; InputError where the counts differ."""
        weights = self.weights or (1.0,) * count
        if len(weights) != count:
            should = f"weights should be one per adapter, {count}"
            raise InputError(f"merge: {should}, were {len(weights)}")
        if self.method == "average" and sum(weights) == 0.0:
            raise InputError(
                "merge: the weights of an average should not sum to 0 (it divides by their sum), "
                f"were {_listed(weights)}; task-arithmetic adds without dividing"
            )
        return weights

    def __str__(self) -> str:
        """`ties, weights 1, 0.5, density 0.2, trim_scope model, rank 16`: what the method uses."""
        parts = [self.method]
        if self.weights:
            parts.append(f"weights {_listed(self.weights)}")
        parts += [f"{name} {getattr(self, name)}" for name in METHODS[self.method].options]
        if self.lambda_ != 1.0:
            parts.append(f"{key('lambda_')} {self.lambda_:g}")
        return ", ".join([*parts, f"rank {self.rank}"])


def _listed(weights: tuple[float, ...]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)
