"""Shape and type rules at an op's front door: rule and message are one text.

    check_shapes("qlora_linear", x=(x, "... k"), a=(a, "r k"), b=(b, "n r"))

binds the letters in order of appearance and refuses the first tensor that disagrees. The same code
runs in eager mode, under torch.compile and on fake tensors.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from qlora_kernels.errors import InputError

__all__ = ["InputError", "check_choice", "check_dtype", "check_probability", "check_shapes"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Shaped(Protocol):
    """Whatever has a shape: a tensor, a quantized tensor."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes."""


def check_shapes(
    op: str, sizes: dict[str, int] | None = None, /, **tensors: tuple[Shaped | None, str]
) -> dict[str, int]:
    """Bind each letter of the patterns to a size; `sizes` holds what is known already.

    A pattern is letters separated by blanks, with `...` for any leading dimensions.
    Absent tensors (None) are skipped. Returns letter -> size; raises InputError.
    """
    bound = dict(sizes or {})
    for name, (tensor, pattern) in tensors.items():
        if tensor is None:
            continue
        letters = pattern.split()
        shape = tuple(tensor.shape)
        if letters[0] == "...":
            letters = letters[1:]
            fits = len(shape) >= len(letters)
            shape = shape[len(shape) - len(letters) :]
        else:
            fits = len(shape) == len(letters)
        found = dict(bound)
        if not (
            fits and all(found.setdefault(a, s) == s for a, s in zip(letters, shape, strict=True))
        ):
            known = ", ".join(f"{a} = {bound[a]}" for a in letters if a in bound)
            where = f" with {known}" if known else ""
            wanted = ", ".join(pattern.split())
            raise InputError(f"{op}: {name} should be [{wanted}]{where}, was {list(tensor.shape)}")
        bound = found
    return bound


def check_dtype(
    op: str, name: str, tensor: torch.Tensor, allowed: Iterable[torch.dtype] = FLOATS
) -> None:
    """Refuse a tensor whose dtype is none of `allowed`."""
    allowed = tuple(allowed)
    if tensor.dtype not in allowed:
        names = " or ".join(str(d).removeprefix("torch.") for d in allowed)
        was = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{op}: {name} should be {names}, was {was}")


def check_choice(op: str, name: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value that is none of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise InputError(f"{op}: {name} should be one of {listed}, was {value!r}")


def check_probability(op: str, name: str, value: float) -> None:
    """Refuse a dropout probability outside [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise InputError(f"{op}: {name} should be in [0, 1), was {value}")
