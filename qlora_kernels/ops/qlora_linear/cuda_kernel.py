"""`qlora_linear` for few rows of x by one CUDA launch, the adapter included: decoding's step."""

from functools import cache
from typing import Any

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.formats.codebooks import FORMATS
from qlora_kernels.gpu import cuda_module
from qlora_kernels.gpu.arrivals import arrivals
from qlora_kernels.gpu.table import round_well
from qlora_kernels.ops.qlora_linear.cuda_plan import MAX_ROWS, FewRows, FewRowsPlan, few_rows_plan

BACKEND = "cuda"
_ALIGNMENT = 16  # bytes of the widest load
_MULTIPROCESSORS_EMULATED = 4  # few, so that small cases have groups with one split and with more


def refuses(
    x: torch.Tensor, base: Base, adapter: Adapter | None, seed: torch.Tensor | None
) -> str | None:
    """Takes up to 16 rows of float32, bfloat16 or float16 on an NVIDIA GPU, over a quantized base.

    It has no gradients: those are other backends' (operator.py).
    """
    if not isinstance(base, QuantizedTensor):
        return "the base weight is dense"
    if x.shape[0] > MAX_ROWS:
        return f"x has {x.shape[0]} rows, more than {MAX_ROWS}"
    tensors = {"x": x} | ({"a": adapter.a, "b": adapter.b} if adapter else {})
    wrong = (cuda_module.misplaced(name, tensor) for name, tensor in tensors.items())
    return next((reason for reason in wrong if reason), None)


def forward(
    x: torch.Tensor,  # [m, k]
    base: QuantizedTensor,  # [n, k]
    adapter: Adapter | None,
    bias: torch.Tensor | None,  # [n]
    seed: torch.Tensor | None,
    output_scale: torch.Tensor | None = None,  # [n]
) -> torch.Tensor:
    """`y = g * (x W^T + s (drop(x A^T)) B^T) + bias`, [m, n], with g the output scale or 1."""
    y = x.new_empty(x.shape[0], base.shape[0])
    if y.numel() == 0:
        return y
    x = x.contiguous()
    rows = [None if t is None else t.detach().contiguous() for t in (bias, output_scale)]
    if rows[0] is not None and rows[0].dtype == torch.float64:
        rows[0] = rows[0].float()  # what sums are in
    scale = None if rows[1] is None else rows[1].float()
    factors = adapter and (adapter.a.detach().contiguous(), adapter.b.detach().contiguous())
    sizes = _sizes(x, base, adapter)
    plan = few_rows_plan(sizes)
    exact_in = x.dtype if plan.is_whole else torch.float32
    codebook, factor = _rounded_codebook(base.format, exact_in)
    task = cuda_module.kernels().LinearTask(
        cuda_module.matrix(x),
        cuda_module.weight(base, codebook),
        factor,
        adapter
        and factors
        and (cuda_module.matrix(factors[0]), cuda_module.matrix(factors[1]), adapter.scaling),
        _dropout(adapter, seed),
    )
    with cuda_module.stream_of(x) as stream:
        _floats, addresses = _workspace(plan, sizes, x.device)
        counters = arrivals(1 + plan.groups(sizes.n), x.device, stream)
        cuda_module.kernels().qlora_linear(
            task,
            (
                None if rows[0] is None else cuda_module.matrix(rows[0].unsqueeze(0)),
                0 if scale is None else scale.data_ptr(),
            ),
            y.data_ptr(),
            _as_kernels_take_it(plan),
            [*addresses, counters.data_ptr()],
            stream,
        )
    return y


def _sizes(x: torch.Tensor, base: QuantizedTensor, adapter: Adapter | None) -> FewRows:
    (m, k), n = x.shape, base.shape[0]
    is_aligned = x.data_ptr() % _ALIGNMENT == 0 and base.codes.data_ptr() % _ALIGNMENT == 0
    return FewRows(
        m,
        n,
        k,
        rank=0 if adapter is None else adapter.rank,
        bits=FORMATS[base.format].bits,
        block_size=base.block_size,
        item_bytes=x.itemsize,
        is_aligned=is_aligned,
        multiprocessors=_multiprocessors(x.device),
    )


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _MULTIPROCESSORS_EMULATED
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def _rounded_codebook(format_name: str, dtype: torch.dtype) -> tuple[list[float] | None, float]:
    """(values exact in dtype, factor): a code's value is their product (gpu/table.py)."""
    values = FORMATS[format_name].codebook
    if values is None:
        return None, 1.0
    rounded, factor = round_well(torch.tensor(values), dtype)
    return rounded.tolist(), factor


@cache
def _as_kernels_take_it(plan: FewRowsPlan) -> Any:
    return cuda_module.kernels().LinearPlan(
        plan.is_whole, plan.strips, plan.splits, plan.shares, plan.share_columns
    )


def _dropout(adapter: Adapter | None, seed: torch.Tensor | None) -> tuple[str, float, int] | None:
    if adapter is None or seed is None:
        return None
    return adapter.dropout_on, adapter.dropout, seed.data_ptr()


def _workspace(
    plan: FewRowsPlan, sizes: FewRows, device: torch.device
) -> tuple[torch.Tensor, list[int]]:
    """One allocation, and where in it the sums, the shares of h, and h start."""
    parts = plan.workspace(sizes)
    floats = torch.empty(sum(parts), dtype=torch.float32, device=device)
    first = floats.data_ptr()
    starts = (0, parts[0], parts[0] + parts[1])
    return floats, [first + floats.itemsize * start for start in starts]
