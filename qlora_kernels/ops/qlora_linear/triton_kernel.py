"""`qlora_linear` and its gradients on NVIDIA GPUs by Triton kernels."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.gpu import tuned
from qlora_kernels.gpu.availability import architecture, misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import (
    TRITON_TYPES,
    base_arguments,
    base_constants,
    is_aligned,
    launch,
)
from qlora_kernels.ops.qlora_linear import triton_adapter, triton_dense, triton_group
from qlora_kernels.ops.qlora_linear.call import Gradients, Layer, Needs
from qlora_kernels.ops.qlora_linear.triton_plan import (
    BACKWARD,
    COLUMNS,
    FORWARD,
    Plan,
    Problem,
    backward_plan,
    forward_plan,
)

BACKEND = "triton"


def refuses(
    x: torch.Tensor, base: Base, adapter: Adapter | None, seed: torch.Tensor | None
) -> str | None:
    """Takes float32, bfloat16 and float16 on an NVIDIA GPU, over a quantized base weight."""
    if not isinstance(base, QuantizedTensor):
        return "the base weight is dense"
    tensors = {"x": x} | ({"a": adapter.a, "b": adapter.b} if adapter else {})
    wrong = [f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype not in TRITON_TYPES]
    return wrong[0] if wrong else misplaced("x", x)


def forward(
    x: torch.Tensor,  # [m, k]
    base: QuantizedTensor,  # [n, k]
    adapter: Adapter | None,
    bias: torch.Tensor | None,  # [n]
    seed: torch.Tensor | None,
    output_scale: torch.Tensor | None = None,  # [n]
) -> torch.Tensor:
    """`y = g * (x W^T + s (drop(x A^T)) B^T) + bias`, [m, n], with g the output scale or 1."""
    x = x.contiguous()
    h = None if adapter is None else triton_adapter.down(x, adapter, seed)
    problem = _problem(x, base, adapter)

    def run(name: str | None) -> torch.Tensor:
        plan = forward_plan(problem, name)
        if plan.way == "dense":
            folds = plan.folds and triton_dense.can_fold(base)
            return triton_dense.forward(x, base, (adapter, h), (bias, output_scale), folds)
        return _fused_forward(plan, x, base, (adapter, h), (bias, output_scale))

    return run(_measured(f"forward {base.format}", problem, FORWARD, run))


def forward_group(x: torch.Tensor, layers: Sequence[Layer]) -> list[torch.Tensor]:
    """y of each layer that reads x, [m, n_i]: in one launch where a kernel of ours runs them and
    they agree in what is compiled into it.
    """
    x = x.contiguous()
    if len(layers) > 1 and len({triton_group.kind(layer) for layer in layers}) == 1:
        problems = [_problem(x, triton_group.base_of(layer), layer.adapter) for layer in layers]
        plan = forward_plan(triton_group.group_problem(problems))
        if plan.way != "dense":
            return triton_group.forward(plan, x, layers)
    return [
        forward(x, base, layer.adapter, layer.bias, layer.seed, layer.output_scale)
        for layer, base in zip(layers, map(triton_group.base_of, layers), strict=True)
    ]


def _measured(
    work: str, problem: Problem, plans: Mapping[str, Plan], run: Callable[[str], object]
) -> str | None:
    """The plan that was the best on this machine for a direction and a format; None where the
    table decides.
    """
    if not problem.is_whole or not tuned.is_asked():
        return None
    return tuned.tuned(f"{work} {problem}", tuple(plans), run)


def backward(
    dy: torch.Tensor,  # [m, n]
    x: torch.Tensor,  # [m, k]
    base: QuantizedTensor,
    adapter: Adapter | None,
    seed: torch.Tensor | None,
    needs: Needs,
) -> Gradients:
    """`dx = dy W + dh A`, `da = dh^T x`, `db = s dy^T h`, `dbias = sum dy`, with `dh = s dy B`."""
    dy = dy.contiguous()
    dh = da = db = dx = None
    if adapter is not None:
        dh = triton_adapter.down_gradient(dy, adapter, seed) if needs.x or needs.a else None
        if needs.a and dh is not None:
            da = triton_adapter.a_gradient(dh, x.contiguous(), adapter, seed)
        if needs.b:
            h = triton_adapter.down(x.contiguous(), adapter, seed)
            db = triton_adapter.b_gradient(h, dy, adapter)
    if needs.x:
        dx = _x_gradient(dy, base, adapter, dh, seed)
    return Gradients(dx, da, db, dy.sum(dim=0) if needs.bias else None)


def _problem(rows: torch.Tensor, base: QuantizedTensor, adapter: Adapter | None) -> Problem:
    n, k = base.shape
    return Problem(
        rows.shape[0],
        n,
        k,
        0 if adapter is None else adapter.rank,
        item_bytes=rows.itemsize,
        is_aligned=is_aligned(k, base.block_size),
        architecture=architecture(rows.device),
    )


def _fused_forward(
    plan: Plan,
    x: torch.Tensor,
    base: QuantizedTensor,
    down: triton_dense.Down,
    epilogue: tuple[torch.Tensor | None, torch.Tensor | None],
) -> torch.Tensor:
    from qlora_kernels.ops.qlora_linear.triton_device import forward_kernel

    (m, k), n = x.shape, base.shape[0]
    y = x.new_empty(m, n)
    target = triton_group.shares_of(plan, y)
    adapter, h = down
    bias, scale = (t if t is None else t.detach().contiguous() for t in epilogue)
    b = None if adapter is None else adapter.b.detach().contiguous()
    launch(
        forward_kernel,
        (-(-m // plan.block_m), -(-n // plan.block_n), plan.splits),
        x.device,
        *(x, *base_arguments(base, x.dtype)),
        *(x if t is None else t for t in (h, b, bias, scale)),
        *(target, m, n, k, 0 if adapter is None else adapter.rank),
        **base_constants(base),
        **triton_group.forward_constants(
            plan, adapter is not None, bias is not None, scale is not None
        ),
        ALIGNED=is_aligned(k, base.block_size),
        num_warps=plan.num_warps,
        num_stages=plan.num_stages,
        enable_fp_fusion=True,
    )
    triton_group.add_splits(target, (bias, scale), y)
    return y


def _x_gradient(
    dy: torch.Tensor,
    base: QuantizedTensor,
    adapter: Adapter | None,
    dh: torch.Tensor | None,
    seed: torch.Tensor | None,
) -> torch.Tensor:
    problem = _problem(dy, base, adapter)
    # A mask on x falls on the adapter's share alone: only our kernel has it.
    masked = triton_adapter.masking(adapter, seed, "input")[0]

    def run(name: str | None) -> torch.Tensor:
        plan = backward_plan(problem, name, fused=masked)
        if plan.way == "dense":
            return triton_dense.x_gradient(dy, base, (adapter, dh), plan.folds)
        return _fused_x_gradient(plan, dy, base, (adapter, dh), seed)

    return run(None if masked else _measured(f"backward {base.format}", problem, BACKWARD, run))


def _fused_x_gradient(
    plan: Plan,
    dy: torch.Tensor,
    base: QuantizedTensor,
    down: triton_dense.Down,
    seed: torch.Tensor | None,
) -> torch.Tensor:
    from qlora_kernels.ops.qlora_linear.triton_device import backward_x_kernel

    (m, n), k = dy.shape, base.shape[1]
    adapter, dh = down
    masked, threshold, keep = triton_adapter.masking(adapter, seed, "input")
    dx = dy.new_empty(m, k)
    launch(
        backward_x_kernel,
        (-(-m // plan.block_m), -(-k // COLUMNS)),
        dy.device,
        *(dy, *base_arguments(base, dy.dtype)),
        *(dy if dh is None else dh, dy if adapter is None else adapter.a.detach().contiguous()),
        *(dy if seed is None else seed, dx, m, n, k, 0 if adapter is None else adapter.rank),
        *(threshold, keep),
        **base_constants(base),
        ALIGNED=is_aligned(k, base.block_size),
        HAS_ADAPTER=adapter is not None,
        MASKED=masked,
        BLOCK_M=plan.block_m,
        BLOCK_N=plan.block_n,
        num_warps=plan.num_warps,
        num_stages=plan.num_stages,
        enable_fp_fusion=True,
    )
    return dx


def compile_cases() -> Iterator[CompileCase]:
    """Every kernel with every plan of the launch rule."""
    from qlora_kernels.ops.qlora_linear.triton_cases import cases

    return cases()
