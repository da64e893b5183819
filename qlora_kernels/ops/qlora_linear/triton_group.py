"""Layers that share x in one launch: q, k and v, or gate and up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.gpu.launch import base_arguments, base_constants, is_aligned, launch
from qlora_kernels.ops.qlora_linear import triton_adapter
from qlora_kernels.ops.qlora_linear.call import Layer
from qlora_kernels.ops.qlora_linear.triton_plan import Plan, Problem

SUM_BLOCK = 1024
_TILE = 128  # columns of y: the widest of a plan, of which layers have whole numbers


def group_problem(problems: Sequence[Problem]) -> Problem:
    """What the launch rule is asked for layers over one x: as wide as their tiles together."""
    width = sum(-(-p.n // _TILE) * _TILE for p in problems)
    return replace(problems[0], n=width, rank=max(p.rank for p in problems))


def base_of(layer: Layer) -> QuantizedTensor:
    """The base weight, of a layer that was not refused."""
    assert isinstance(layer.base, QuantizedTensor)
    return layer.base


def kind(layer: Layer) -> tuple[Any, ...]:
    """What layers of one launch have in common: all that is compiled into the kernel."""
    base, adapter, bias = base_of(layer), layer.adapter, layer.bias
    return (
        *(base.format, base.block_size, base.double_quant),
        None if adapter is None else adapter.b.dtype,
        None if bias is None else bias.dtype,
        None if layer.output_scale is None else layer.output_scale.dtype,
    )


def forward(plan: Plan, x: torch.Tensor, layers: Sequence[Layer]) -> list[torch.Tensor]:
    """y [m, n_i] of layers of one kind, x contiguous; shares of k are added layer by layer."""
    from qlora_kernels.ops.qlora_linear.triton_device import forward_group_kernel

    (m, k), first, base = x.shape, layers[0], base_of(layers[0])
    outputs = [x.new_empty(m, layer.out_features) for layer in layers]
    targets = [shares_of(plan, y) for y in outputs]
    own = [_own(x, layer) for layer in layers]
    bases = [base_arguments(base_of(layer), x.dtype) for layer in layers]
    *per_layer, dynamic, table = (tuple(parts) for parts in zip(*bases, strict=True))
    tiles = sum(-(-layer.out_features // plan.block_n) for layer in layers)
    flags = (first.adapter is not None, first.bias is not None, first.output_scale is not None)
    launch(
        forward_group_kernel,
        (-(-m // plan.block_m), tiles, plan.splits),
        x.device,
        *(x, *per_layer, dynamic[0], table[0]),
        *(tuple(parts) for parts in zip(*own, strict=True)),
        *(tuple(targets), m, tuple(layer.out_features for layer in layers), k),
        tuple(0 if layer.adapter is None else layer.adapter.rank for layer in layers),
        **base_constants(base),
        **forward_constants(plan, *flags),
        ALIGNED=is_aligned(k, base.block_size),
        num_warps=plan.num_warps,
        num_stages=plan.num_stages,
        enable_fp_fusion=True,
    )
    for layer, target, y in zip(layers, targets, outputs, strict=True):
        add_splits(target, (layer.bias, layer.output_scale), y)
    return outputs


def shares_of(plan: Plan, y: torch.Tensor) -> torch.Tensor:
    """What the kernel writes: y itself, or each share of k, float32 [splits, m, n]."""
    if plan.splits == 1:
        return y
    return y.new_empty(plan.splits, *y.shape, dtype=torch.float32)


def add_splits(
    target: torch.Tensor, epilogue: tuple[torch.Tensor | None, torch.Tensor | None], y: torch.Tensor
) -> None:
    """`y = g * (the shares, added in order) + bias`, where there are shares; epilogue: bias, g."""
    from qlora_kernels.ops.qlora_linear.triton_device import sum_splits_kernel

    if target is y:
        return
    bias, scale = (t if t is None else t.detach().contiguous() for t in epilogue)
    launch(
        sum_splits_kernel,
        (y.shape[0], -(-y.shape[1] // SUM_BLOCK)),
        y.device,
        *(target, *(y if t is None else t for t in (bias, scale)), y, *y.shape),
        HAS_BIAS=bias is not None,
        HAS_SCALE=scale is not None,
        SPLITS=target.shape[0],
        BLOCK=SUM_BLOCK,
        enable_fp_fusion=True,
    )


def _own(x: torch.Tensor, layer: Layer) -> tuple[torch.Tensor, ...]:
    """(h, B, bias, output scale) as the kernel reads them; x stands in for what is absent."""
    adapter = layer.adapter
    h = None if adapter is None else triton_adapter.down(x, adapter, layer.seed)
    b = None if adapter is None else adapter.b
    parts = (h, b, layer.bias, layer.output_scale)
    return tuple(x if t is None else t.detach().contiguous() for t in parts)


def forward_constants(
    plan: Plan, has_adapter: bool, has_bias: bool, has_scale: bool
) -> dict[str, int]:
    """The constants of the forward kernel that the plan and the call decide."""
    return {
        "HAS_ADAPTER": has_adapter,
        "HAS_BIAS": has_bias,
        "HAS_SCALE": has_scale,
        "BLOCK_M": plan.block_m,
        "BLOCK_N": plan.block_n,
        "SPLITS": plan.splits,
        "SKINNY": plan.way == "skinny",
    }
