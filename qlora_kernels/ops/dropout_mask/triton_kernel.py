"""Philox dropout masks by a Triton kernel: the same words as in the kernels that drop."""

from collections.abc import Iterator

import torch

from qlora_kernels.gpu.availability import misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import dropout_arguments, launch

BACKEND = "triton"

_BLOCK = 1024


def refuses(seed: torch.Tensor, out: torch.Tensor, p: float) -> str | None:
    """Writes to an NVIDIA GPU."""
    return misplaced("out", out)


def dropout_mask(seed: torch.Tensor, out: torch.Tensor, p: float) -> None:
    """`out[i] = (word(i) >= floor(p 2^32)) / (1 - p)`."""
    from qlora_kernels.ops.dropout_mask.triton_device import dropout_mask_kernel

    count = out.numel()
    launch(
        dropout_mask_kernel,
        (-(-count // _BLOCK),),
        out.device,
        *(seed, out, count, *dropout_arguments(p)),
        BLOCK=_BLOCK,
        enable_fp_fusion=True,
    )


def compile_cases() -> Iterator[CompileCase]:
    """The one kernel."""
    from qlora_kernels.ops.dropout_mask.triton_device import dropout_mask_kernel

    yield CompileCase(
        "dropout_mask",
        "float32",
        dropout_mask_kernel,
        {
            "seed": "*i64",
            "out": "*fp32",
            "count": "i32",
            "threshold": "i64",
            "keep": "fp32",
            "BLOCK": "constexpr",
        },
        {"BLOCK": _BLOCK},
        aligned=("out", "count"),
    )
