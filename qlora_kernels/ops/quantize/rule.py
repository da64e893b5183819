"""What every quantization kernel shares."""

import numpy as np
import torch

from qlora_kernels.checks import InputError
from qlora_kernels.formats import QuantSpec
from qlora_kernels.formats.codebooks import FORMATS

MIN_ROWS = 64  # the mean of fewer squares says little
TINY = 1e-38  # bitsandbytes' floor of a 4-bit block's absmax


def refuse_nonfinite(w: torch.Tensor, index: int) -> None:
    """Raise InputError with the place of a value that is not finite; index < 0: there is none."""
    if index >= 0:
        where = [int(i) for i in np.unravel_index(index, tuple(w.shape))]
        value = w.reshape(-1)[index].item()
        raise InputError(f"quantize: w should be finite in float32, was {value} at {where}")


def checked_importance(importance: torch.Tensor, w: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """Float32 beside w, with a mean of 1: so no sum of weighted squares overflows."""
    if not spec.ratios:
        raise InputError(
            "quantize: importance should come with scale_search=True or a format that searches, "
            f"came with {spec.format}"
        )
    expected = list(w.shape[-1:])
    if list(importance.shape) != expected or not importance.is_floating_point():
        was = f"{importance.dtype} {list(importance.shape)}"
        raise InputError(f"quantize: importance should be floats {expected}, was {was}")
    exact = importance.detach().double()
    if not (exact.isfinite().all() and (exact >= 0).all() and (exact > 0).any()):
        raise InputError("quantize: importance should be finite, 0 or more, somewhere above 0")
    return (exact / exact.mean()).float().to(w.device)


def column_importance(w: torch.Tensor) -> torch.Tensor | None:
    """`max(1, median / s_j)` with s_j the mean of w[:, j]^2, float32 [columns], for a matrix; None
    where there are too few rows.

    What a layer hardly weighs is as a rule large, in language models most of all: errors of small
    columns count relative to their column. No column counts more than a hundred times as much.
    """
    if w.dim() != 2 or len(w) < MIN_ROWS:
        return None
    squares = torch.linalg.vector_norm(w.detach(), dim=0, dtype=torch.float64).square()
    relative = (squares / squares.median()).nan_to_num(nan=1.0)
    importance: torch.Tensor = 1 / relative.clamp(min=0.01, max=1.0)
    return importance.float()


def nested_offset(scales: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """What double quantization centres on: the mean, or 0 for signed scales, whose middle it is."""
    is_plain = scales.numel() > 0 and not FORMATS[spec.format].signed
    return scales.mean() if is_plain else scales.new_zeros(())
