"""The one error rule: truth is float64, the yardstick is what plain torch errs in the same dtype.

Pooled over a list of cases, per output:

    rms of |o - t| / |t|                <= 1.5 x plain torch's
    |mean of <o - t, t> / |t|^2|        <= 0.3 x plain torch's rms      (no bias)

and per case, as a sanity bound only, |o - t| / |t| <= 8 x plain torch's + 16 eps. A scale that is
wrong by 0.5 % passes any single bf16 tolerance, but not the second line.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import torch

RMS_RATIO = 1.5
BIAS_RATIO = 0.3
CASE_RATIO = 8.0
CASE_EPS = 16.0


@dataclass(frozen=True)
class _Errors:
    ours: float  # |o - t| / |t|
    plain: float
    bias: float  # <o - t, t> / |t|^2


@dataclass
class ErrorRule:
    """Collects outputs case by case; `check()` raises AssertionError with every breach.

    dtype: the one under test, that of the activations; a gradient may be kept in a wider one.
    """

    dtype: torch.dtype
    _pools: dict[str, list[_Errors]] = field(default_factory=lambda: defaultdict(list))
    _breaches: list[str] = field(default_factory=list)

    def add(
        self,
        case: str,
        output: str,
        ours: torch.Tensor,
        plain: torch.Tensor,
        truth: torch.Tensor,
    ) -> None:
        """One output of one case, ours and plain torch's, and the truth in float64."""
        assert truth.dtype == torch.float64, f"truth should be float64, was {truth.dtype}"
        assert ours.shape == truth.shape, f"{case} {output}: {ours.shape} for {truth.shape}"
        norm = truth.norm().item()
        if norm == 0.0:
            if ours.count_nonzero():
                self._breaches.append(f"{case} {output}: should be zero, was not")
            return
        difference = ours.double() - truth
        errors = _Errors(
            difference.norm().item() / norm,
            (plain.double() - truth).norm().item() / norm,
            (difference * truth).sum().item() / norm**2,
        )
        bound = CASE_RATIO * errors.plain + CASE_EPS * torch.finfo(self.dtype).eps
        if not errors.ours <= bound:
            self._breaches.append(f"{case} {output}: error {errors.ours:.3g}, bound {bound:.3g}")
        self._pools[output].append(errors)

    def check(self) -> None:
        """Judge the pools; at least one output must have been added."""
        assert self._pools or self._breaches, "the error rule was given nothing to judge"
        for output, pool in self._pools.items():
            rms = _rms([e.ours for e in pool])
            plain = _rms([e.plain for e in pool])
            bias = abs(math.fsum(e.bias for e in pool)) / len(pool)
            if not rms <= RMS_RATIO * plain:
                self._breaches.append(f"{output}: rms {rms:.3g} over {RMS_RATIO} x {plain:.3g}")
            if not bias <= BIAS_RATIO * plain:
                self._breaches.append(f"{output}: bias {bias:.3g} over {BIAS_RATIO} x {plain:.3g}")
        self.check_each()

    def check_each(self) -> None:
        """The bounds of single cases alone, where there are too few of them to pool."""
        assert not self._breaches, "\n".join(self._breaches)


def _rms(values: list[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values) / len(values))
