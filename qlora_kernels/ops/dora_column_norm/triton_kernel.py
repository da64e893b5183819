"""`dora_column_norm` on NVIDIA GPUs: one Triton kernel reads the codes once, one takes the root."""

from collections.abc import Iterator

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.gpu.availability import misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import (
    COLUMNS,
    TRITON_TYPES,
    base_arguments,
    base_constants,
    base_types,
    is_aligned,
    launch,
)
from qlora_kernels.gpu.shares import MAX_SPLITS, splits

BACKEND = "triton"

_BLOCK_N = 32  # rows of W that share a read of A: with 64 a weight read value by value spills
_RANK = 16  # columns of B that are multiplied at a time: 64 of them spill
_NUM_WARPS = 4
_ROOT_BLOCK = 256


def refuses(base: Base, adapter: Adapter) -> str | None:
    """Takes float32, bfloat16 and float16 factors on an NVIDIA GPU, over a quantized base."""
    if not isinstance(base, QuantizedTensor):
        return "the base weight is dense"
    factors = {"a": adapter.a, "b": adapter.b}
    wrong = [f"{name} is {t.dtype}" for name, t in factors.items() if t.dtype not in TRITON_TYPES]
    return wrong[0] if wrong else misplaced("a", adapter.a)


def column_norm(base: QuantizedTensor, adapter: Adapter) -> torch.Tensor:
    """`|W + s B A|` per output feature, [n]: squares summed tile by tile, in a fixed order."""
    from qlora_kernels.ops.dora_column_norm.triton_device import column_norm_kernel, root_kernel

    (n, k), rank = base.shape, adapter.rank
    blocks = -(-n // _BLOCK_N)
    shares = splits(blocks, k, COLUMNS)
    partial = adapter.a.new_empty(shares, n, dtype=torch.float32)
    norm = torch.empty_like(partial[0])
    launch(
        column_norm_kernel,
        (blocks, shares),
        adapter.a.device,
        *base_arguments(base, torch.float32),
        *(adapter.a.contiguous(), adapter.b.contiguous(), partial, n, k, rank, adapter.scaling),
        **base_constants(base),
        **_constants(shares, is_aligned(k, base.block_size)),
        num_warps=_NUM_WARPS,
        num_stages=1,  # the inner loop is that of the rank: one pass for 16
        enable_fp_fusion=True,
    )
    launch(
        root_kernel,
        (-(-n // _ROOT_BLOCK),),
        adapter.a.device,
        *(partial, norm, n),
        SPLITS=shares,
        BLOCK=_ROOT_BLOCK,
    )
    return norm


def _constants(shares: int, aligned: bool) -> dict[str, int]:
    return {
        "ALIGNED": aligned,
        "BLOCK_N": _BLOCK_N,
        "RANK": _RANK,
        "SPLITS": shares,
    }


def compile_cases() -> Iterator[CompileCase]:
    """NF4 with factors of every dtype, the other ways to store a base, value by value; the root."""
    from qlora_kernels.ops.dora_column_norm.triton_device import column_norm_kernel, root_kernel

    usual = {"NESTED": True, "BITS": 4, "BLOCK_SIZE": 64}
    variants = [(usual, name, True) for name in TRITON_TYPES.values()]
    variants += [(usual | change, "fp32", True) for change in ({"NESTED": False}, {"BITS": 8})]
    variants += [(usual, "fp32", False)]
    for base, factors, aligned in variants:
        constants = base | _constants(1, aligned)
        sizes = dict.fromkeys(("n", "k", "rank"), "i32")
        signature = {
            **base_types(bool(base["NESTED"])),
            **{"a": f"*{factors}", "b": f"*{factors}", "partial": "*fp32"},
            **sizes,
            "scaling": "fp32",
        }
        said = [f"{name.lower()}={int(value)}" for name, value in constants.items()]
        yield CompileCase(
            "dora_column_norm",
            " ".join([factors, *said]),
            column_norm_kernel,
            signature | dict.fromkeys(constants, "constexpr"),
            constants,
            num_warps=_NUM_WARPS,
            num_stages=1,
            aligned=tuple(name for name in signature if name != "scaling") if aligned else (),
            decoded_weights=_BLOCK_N * COLUMNS,
        )
    root = {"partial": "*fp32", "norm": "*fp32", "n": "i32"}
    for shares in (1, MAX_SPLITS):
        constants = {"SPLITS": shares, "BLOCK": _ROOT_BLOCK}
        yield CompileCase(
            "dora_column_norm",
            f"root of {shares} shares",
            root_kernel,
            root | dict.fromkeys(constants, "constexpr"),
            constants,
            aligned=tuple(root),
        )
