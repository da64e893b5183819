"""Dequantization by one Triton kernel: each program decodes whole runs that share a scale."""

from collections.abc import Iterator

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import FORMATS
from qlora_kernels.gpu.availability import misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import TRITON_TYPES, base_arguments, base_types, code_bits, launch

BACKEND = "triton"

_VALUES = 8192  # per program
ROW = 64  # values to a scale at most: longer blocks are read as several of them
_NUM_WARPS = 4


def refuses(q: QuantizedTensor, out: torch.Tensor) -> str | None:
    """Writes float32, bfloat16 and float16 on an NVIDIA GPU."""
    if out.dtype not in TRITON_TYPES:
        return f"out is {out.dtype}"
    return misplaced("out", out)


def dequantize(q: QuantizedTensor, out: torch.Tensor) -> None:
    """`out = codebook[code] * absmax`, one float32 product and one rounding to out's dtype.

    The rows of a matrix out [n, k] may lie apart, where k is a multiple of `ROW`.
    """
    from qlora_kernels.ops.dequantize.triton_device import dequantize_kernel

    width = q.shape[-1] if q.shape else 1
    gap = 0 if out.is_contiguous() else out.stride(0) - width
    launch(
        dequantize_kernel,
        (-(-q.numel() // _VALUES),),
        out.device,
        *base_arguments(q, torch.float32),
        out,
        *(q.numel(), width, gap),
        **_constants(q.double_quant, code_bits(q), q.block_size),
        WHOLE=q.numel() % _VALUES == 0,
        GAPS=gap > 0,
        num_warps=_NUM_WARPS,
        enable_fp_fusion=False,  # bits equal the reference's, which rounds after every product
    )


def _constants(nested: bool, bits: int, block_size: int) -> dict[str, int]:
    row = min(block_size, ROW)
    return {
        "NESTED": nested,
        "BITS": bits,
        "BLOCK_SIZE": block_size,
        "ROW": row,
        "ROWS": _VALUES // row,
    }


def compile_cases() -> Iterator[CompileCase]:
    """What users store: every format, and NF4 in every output dtype; rows apart."""
    from qlora_kernels.ops.dequantize.triton_device import dequantize_kernel

    wanted = [("nf4", d) for d in TRITON_TYPES] + [(f, torch.bfloat16) for f in FORMATS]
    cases = [(*each, nested, False) for each in dict.fromkeys(wanted) for nested in (True, False)]
    for format_name, dtype, nested, gaps in [*cases, ("nf4", torch.bfloat16, True, True)]:
        constants = _constants(nested, FORMATS[format_name].bits, 64)
        constants |= {"WHOLE": True, "GAPS": gaps}
        signature = {
            **base_types(nested),
            "out": f"*{TRITON_TYPES[dtype]}",
            **dict.fromkeys(("count", "width", "gap"), "i32"),
            **dict.fromkeys(constants, "constexpr"),
        }
        said = [f"{'nested' if nested else 'plain'} scales", TRITON_TYPES[dtype]]
        yield CompileCase(
            "dequantize",
            ", ".join([format_name, *said, *(["rows apart"] if gaps else [])]),
            dequantize_kernel,
            signature,
            constants,
            num_warps=_NUM_WARPS,
            fp_fusion=False,
            aligned=tuple(name for name in signature if signature[name] != "constexpr"),
            decoded_weights=_VALUES,
        )
