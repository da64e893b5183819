"""The kernels of qlora_linear in every configuration that the launch rule can choose."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import TRITON_TYPES, base_types
from qlora_kernels.gpu.shares import MAX_SPLITS, rank_tile
from qlora_kernels.ops.qlora_linear.triton_adapter import SUM_BLOCK as SHARES_BLOCK
from qlora_kernels.ops.qlora_linear.triton_adapter import rows_at_once, tile
from qlora_kernels.ops.qlora_linear.triton_group import SUM_BLOCK, forward_constants
from qlora_kernels.ops.qlora_linear.triton_plan import (
    BACKWARD_LARGEST,
    COLUMNS,
    FORWARD_LARGEST,
    SCATTERED,
    SKINNY,
    Plan,
    every_plan,
)

OP = "qlora_linear"
BASE = {"NESTED": True, "BITS": 4, "BLOCK_SIZE": 64, "ALIGNED": True}
DROPOUT_TYPES = {"threshold": "i64", "keep": "fp32"}
SIZES = {"m": "i32", "n": "i32", "k": "i32", "rank": "i32"}
RANKS = (16, 64)


def cases() -> Iterator[CompileCase]:
    """NF4 with nested scales in bf16 by every plan; the variants of it by one plan each.

    Compiling takes seconds, so that what differs in a type or a flag alone is not crossed.
    """
    forward, backward = every_plan()
    yield from (_forward(plan, 1, torch.bfloat16, BASE) for plan in forward)
    yield from (_backward(plan, torch.bfloat16, BASE) for plan in backward)
    yield _forward(SKINNY, MAX_SPLITS, torch.bfloat16, BASE)
    for plan in (SKINNY, FORWARD_LARGEST):
        yield _forward(plan, 1, torch.float16, BASE)
        yield _forward(plan, 1, torch.bfloat16, BASE | {"NESTED": False})
        for dtype in (torch.bfloat16, torch.float16):
            yield _forward(plan, 1, dtype, BASE | {"BITS": 8})
        yield _forward(plan, 1, torch.bfloat16, BASE, has_scale=True)
    for splits, num_layers in ((1, 2), (1, 3), (MAX_SPLITS, 3)):
        yield _group(SKINNY, splits, num_layers)
    yield _group(FORWARD_LARGEST, 1, 3)
    yield _backward(BACKWARD_LARGEST, torch.bfloat16, BASE | {"BITS": 8})
    yield _backward(BACKWARD_LARGEST, torch.float16, BASE)
    for dtype in (torch.float32, torch.bfloat16):
        yield _forward(SCATTERED, 1, dtype, BASE | {"ALIGNED": False})
        yield _backward(SCATTERED, dtype, BASE | {"ALIGNED": False})
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield from _adapter(dtype)
        yield from _sums(dtype)


def _forward(
    plan: Plan, splits: int, dtype: torch.dtype, base: dict[str, int], has_scale: bool = False
) -> CompileCase:
    from qlora_kernels.ops.qlora_linear.triton_device import forward_kernel

    name = TRITON_TYPES[dtype]
    constants = base | forward_constants(plan, True, splits == 1, has_scale) | {"SPLITS": splits}
    signature = {
        "x": f"*{name}",
        **base_types(bool(base["NESTED"])),
        **{"h": "*fp32", "b": "*fp32", "bias": f"*{name}", "output_scale": "*fp32"},
        "out": f"*{name if splits == 1 else 'fp32'}",
        **SIZES,
    }
    return _case(forward_kernel, signature, constants, plan, plan.block_n * COLUMNS)


def _group(plan: Plan, splits: int, num_layers: int) -> CompileCase:
    """Layers that share x: the same with a tuple for each argument that is a layer's own."""
    from qlora_kernels.ops.qlora_linear.triton_device import forward_group_kernel

    single = _forward(plan, splits, torch.bfloat16, BASE)
    shared = ("x", "dynamic", "table", "m", "k")
    signature: dict[str, str | tuple[str, ...]] = {
        name: kind if name in shared or kind == "constexpr" else (str(kind),) * num_layers
        for name, kind in single.signature.items()
    }
    description = f"{num_layers} layers, {single.description}"
    return replace(
        single, kernel=forward_group_kernel, signature=signature, description=description
    )


def _backward(plan: Plan, dtype: torch.dtype, base: dict[str, int]) -> CompileCase:
    from qlora_kernels.ops.qlora_linear.triton_device import backward_x_kernel

    name = TRITON_TYPES[dtype]
    blocks = {"BLOCK_M": plan.block_m, "BLOCK_N": plan.block_n}
    constants = base | {"HAS_ADAPTER": True, "MASKED": False, **blocks}
    signature = {
        "dy": f"*{name}",
        **base_types(bool(base["NESTED"])),
        **{"dh": "*fp32", "a": "*fp32", "seed": "*i64", "dx": f"*{name}"},
        **SIZES,
        **DROPOUT_TYPES,
    }
    return _case(backward_x_kernel, signature, constants, plan, plan.block_n * COLUMNS)


def _adapter(dtype: torch.dtype) -> Iterator[CompileCase]:
    from qlora_kernels.ops.qlora_linear import adapter_device as device

    name, step = TRITON_TYPES[dtype], tile(dtype.itemsize)
    plan = Plan("tile", num_stages=3)
    sizes = {"m": "i32", "k": "i32", "rank": "i32"}
    for rank, masked in zip(map(rank_tile, RANKS), (True, False), strict=True):
        common = {"MASKED": masked, "RANK": rank, "STEP": step, "SPLITS": MAX_SPLITS}
        pointers = {"x": f"*{name}", "factor": "*fp32", "seed": "*i64", "partial": "*fp32"}
        # A is read along its rows: their stride is k, that of columns the constant 1.
        strides = {"stride_r": "i32", "stride_k": "constexpr"}
        for rows in sorted({rows_at_once(m, dtype.itemsize) for m in (1, 4096)}):
            constants = common | {"BLOCK_M": rows, "stride_k": 1}
            signature = pointers | sizes | strides | DROPOUT_TYPES
            yield _case(device.rows_kernel, signature, constants, plan, 0)
        pointers = {"h": "*fp32", "x": f"*{name}", "seed": "*i64", "partial": "*fp32"}
        signature = pointers | sizes | DROPOUT_TYPES
        yield _case(device.columns_kernel, signature, common | {"BLOCK_K": step}, plan, 0)


def _sums(dtype: torch.dtype) -> Iterator[CompileCase]:
    """What adds the shares of a sum: y's with its epilogue, h's with and without its mask."""
    from qlora_kernels.ops.qlora_linear.adapter_device import sum_shares_kernel
    from qlora_kernels.ops.qlora_linear.triton_device import sum_splits_kernel

    name, plan, shares = TRITON_TYPES[dtype], Plan("tile", num_stages=3), {"SPLITS": MAX_SPLITS}
    pointers = {"partial": "*fp32", "bias": f"*{name}", "output_scale": "*fp32", "out": f"*{name}"}
    constants = {"HAS_BIAS": True, "HAS_SCALE": True, **shares, "BLOCK": SUM_BLOCK}
    yield _case(sum_splits_kernel, pointers | {"m": "i32", "n": "i32"}, constants, plan, 0)
    if dtype != torch.float32:
        return  # h and the gradients of the adapter's float32 masters are float32
    pointers = {"partial": "*fp32", "seed": "*i64", "out": "*fp32"}
    sizes = {"count": "i32", "columns": "i32", "row_stride": "i32", "column_stride": "constexpr"}
    for masked in (False, True):
        constants = {"MASKED": masked, **shares, "BLOCK": SHARES_BLOCK, "column_stride": 1}
        signature = pointers | sizes | {"scaling": "fp32"} | DROPOUT_TYPES
        yield _case(sum_shares_kernel, signature, constants, plan, 0)


def _description(signature: dict[str, str], constants: dict[str, int]) -> str:
    named = (signature[name] for name in ("x", "dy", "out") if name in signature)
    dtype = next(named, "*fp32")[1:]
    said = [f"{name.lower()}={int(value)}" for name, value in constants.items()]
    return " ".join([dtype, *said])


def _case(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, int],
    plan: Plan,
    decoded_weights: int,
) -> CompileCase:
    """Pointers and sizes but m are multiples of 16, as in a model of width 4096 and rank 16."""
    signature = signature | dict.fromkeys(constants, "constexpr")
    runtime = [name for name, kind in signature.items() if kind[0] == "*" or kind == "i32"]
    return CompileCase(
        OP,
        _description(signature, constants),
        kernel,
        signature,
        constants,
        num_warps=plan.num_warps,
        num_stages=plan.num_stages,
        aligned=tuple(name for name in runtime if name != "m" and constants.get("ALIGNED", True)),
        decoded_weights=decoded_weights,
    )
