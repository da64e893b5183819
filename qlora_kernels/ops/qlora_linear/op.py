"""The linear layer of QLoRA: a frozen base weight and a low-rank adapter in one op.

    y  = x W^T + s h B^T + bias,    h = drop(x A^T) or drop(x) A^T
    dx = dy W + dh A,  da = dh^T x,  db = s dy^T h,  dbias = sum dy,    dh = s dy B

and with a magnitude (DoRA), g = magnitude / |W + s B A| per output feature, the norm held constant:

    y  = g * u + bias,    u = x W^T + s h B^T
    dg = sum dy * u,      and the gradients above with g * dy for dy, but dbias

W [n, k] is decoded from its codes in both directions; no dense copy is kept for backward, which
holds x, the codes, A and B only, and y for the magnitude. Dropout masks are regenerated from a
seed. Sources: QLoRA (arXiv 2305.14314, equation 5), LoRA (arXiv 2106.09685), DoRA (arXiv
2402.09353, equation 5 and section 4.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype, check_shapes
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.ops.dora_column_norm import dora_column_norm
from qlora_kernels.ops.dropout_mask import dropout_mask
from qlora_kernels.ops.dropout_mask.op import seed_tensor
from qlora_kernels.ops.qlora_linear import eager
from qlora_kernels.ops.qlora_linear.call import Layer
from qlora_kernels.ops.qlora_linear.operator import GROUP_SIZES, run


def qlora_linear(
    x: torch.Tensor,
    q: Base,
    adapter: Adapter | None = None,
    bias: torch.Tensor | None = None,
    *,
    seed: int | torch.Tensor | None = None,
    column_norm: torch.Tensor | None = None,
) -> torch.Tensor:
    """`y = g * (x W^T + s (drop(x A^T)) B^T) + bias`, differentiable in all but q and the norm.

    x: [..., k], float32, bfloat16, float16 (float64 by the reference backend); q: a QuantizedTensor
    [n, k], or a plain frozen tensor for 16-bit LoRA; adapter: a [rank, k], b [n, rank]; bias: [n].
    Returns [..., n] of x's dtype; sums are accumulated in float32. With adapter.dropout > 0 it
    always drops; `seed` (64 bits, by default drawn from torch's generator) fixes the mask, which is
    `dropout_mask(seed, (m, rank or k), p)` with m the product of x's leading dimensions.

    g = magnitude / column_norm for an adapter with a magnitude, 1 without one or where the norm is
    0. column_norm: `dora_column_norm(q, adapter)` if the caller has it already. DoRA with dropout
    on the input is peft's: `y = (x - x') W^T + g * (x' W^T + s x' A^T B^T) + bias`, x' = drop(x).

    Raises InputError for shapes, dtypes or devices that do not fit, and for a dense q that wants a
    gradient.
    """
    if column_norm is None:
        y = eager.run_alone(x, q, adapter, bias)
        if y is not None:
            return y
    return qlora_linear_group(x, [Linear(q, adapter, bias, seed, column_norm)])[0]


@dataclass(frozen=True, eq=False)
class Linear:
    """What `qlora_linear` takes beside x."""

    q: Base
    adapter: Adapter | None = None
    bias: torch.Tensor | None = None
    seed: int | torch.Tensor | None = None
    column_norm: torch.Tensor | None = None

    @property
    def is_dora(self) -> bool:
        """Whether a magnitude scales its output; a norm alone is for `_check` to refuse."""
        has_magnitude = self.adapter is not None and self.adapter.magnitude is not None
        return has_magnitude or self.column_norm is not None

    @property
    def layer(self) -> Layer:
        """As kernels take it, without a seed and an output scale; the same object every time."""
        if torch.compiler.is_compiling():
            return Layer(self.q, self.adapter, bias=self.bias)
        kept: Layer | None = self.__dict__.get("_layer")
        if kept is None:
            kept = self.__dict__["_layer"] = Layer(self.q, self.adapter, bias=self.bias)
        return kept


def qlora_linear_group(x: torch.Tensor, linears: Sequence[Linear]) -> tuple[torch.Tensor, ...]:
    """`qlora_linear(x, ...)` of two or three layers that read the same x, in one call.

    The results are those of separate calls, up to the order in which the gradient of x is summed;
    x is read once, where the kernel can. Raises InputError as `qlora_linear` does, and for more
    layers than an operator takes.
    """
    if len(linears) not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise InputError(f"qlora_linear_group: linears should be {sizes}, were {len(linears)}")
    is_dora = any(linear.is_dora for linear in linears)
    if is_dora and len(linears) > 1 and any(map(_drops_input_of_dora, linears)):
        return tuple(qlora_linear_group(x, [linear])[0] for linear in linears)
    seeds = [_seed(x, linear) for linear in linears]
    layers = [
        linear.layer if seed is None else replace(linear.layer, seed=seed)
        for linear, seed in zip(linears, seeds, strict=True)
    ]
    if not is_dora:
        outputs: tuple[torch.Tensor, ...] | None = eager.run(x, layers)
        if outputs is not None:
            return outputs
    for linear in linears:
        _check(x, linear)
    if _drops_input_of_dora(linears[0]):
        return (_dora_with_dropped_input(x, linears[0], seeds[0]),)
    scales = [output_scale_of(linear) for linear in linears]
    return run(
        x,
        [
            layer if scale is None else replace(layer, output_scale=scale)
            for layer, scale in zip(layers, scales, strict=True)
        ],
    )


def _seed(x: torch.Tensor, linear: Linear) -> torch.Tensor | None:
    """The seed of the mask; None where nothing drops."""
    if linear.adapter is None or linear.adapter.dropout == 0.0:
        return None
    if linear.seed is None:
        return torch.randint(2**62, (), dtype=torch.int64, device=x.device)
    return seed_tensor("qlora_linear", linear.seed, x.device)


def _drops_input_of_dora(linear: Linear) -> bool:
    adapter = linear.adapter
    return (
        adapter is not None
        and adapter.magnitude is not None
        and adapter.dropout > 0.0
        and adapter.dropout_on == "input"
    )


def _dora_with_dropped_input(
    x: torch.Tensor, linear: Linear, seed: torch.Tensor | None
) -> torch.Tensor:
    """peft's formula, from two calls."""
    adapter = linear.adapter
    assert adapter is not None and seed is not None
    dropped = x * dropout_mask(seed, x.shape, adapter.dropout).to(x.dtype)
    kept = Layer(linear.q, replace(adapter, dropout=0.0), None, output_scale_of(linear))
    [rest] = run(x - dropped, [Layer(linear.q, None, bias=linear.bias)])
    return rest + run(dropped, [kept])[0]


def output_scale_of(linear: Linear) -> torch.Tensor | None:
    """`magnitude / norm`, and a constant 1 where the norm is 0 and no scale could matter."""
    adapter, norm = linear.adapter, linear.column_norm
    if adapter is None or adapter.magnitude is None:
        return None
    norm = dora_column_norm(linear.q, adapter) if norm is None else norm.detach()
    is_zero = norm == 0
    return torch.where(is_zero, 1.0, adapter.magnitude / torch.where(is_zero, 1.0, norm))


def _check(x: torch.Tensor, linear: Linear) -> None:
    op = "qlora_linear"
    q, adapter = linear.q, linear.adapter
    rows = {"bias": linear.bias, "column_norm": linear.column_norm}
    tensors = {"x": x, **rows}
    if isinstance(q, QuantizedTensor):
        q.check(op)
    elif q.requires_grad:
        raise InputError(f"{op}: the base weight should be frozen, was one that wants a gradient")
    rules = {name: (tensor, "n") for name, tensor in rows.items()}
    sizes = check_shapes(op, q=(q, "n k"), x=(x, "... k"), **rules)
    if adapter is not None:
        adapter.check(op)
        magnitude = adapter.magnitude
        check_shapes(
            op, sizes, a=(adapter.a, "r k"), b=(adapter.b, "n r"), magnitude=(magnitude, "n")
        )
        tensors |= {"a": adapter.a, "b": adapter.b, "magnitude": magnitude}
    if tensors["column_norm"] is not None and tensors.get("magnitude") is None:
        raise InputError(f"{op}: column_norm should come with a magnitude, came without one")
    for name, tensor in tensors.items():
        if tensor is not None:
            check_dtype(op, name, tensor, FLOATS)
            if tensor.device != q.device:
                raise InputError(f"{op}: {name} should be on {q.device}, was on {tensor.device}")
