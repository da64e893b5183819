"""bitsandbytes: its own choice of path for each call, over our codes (they are bit-identical)."""

from typing import Any

import torch

import qlora_kernels as qk
from bench.kernels.case import Call
from bench.kernels.ops import adamw8bit as adamw_op
from bench.kernels.ops import dequantize as dequantize_op
from bench.kernels.ops import qlora_linear as linear_op
from bench.kernels.ops import quantize as quantize_op
from bench.kernels.peers import import_refusal
from bench.kernels.peers.torch_dense import without_adapter


def missing() -> str | None:
    return import_refusal("bitsandbytes")


def layer(p: linear_op.Problem) -> torch.nn.Module:
    """`Linear4bit`; in eval mode, where nothing is trained, it may take its packed path."""
    import bitsandbytes

    made = bitsandbytes.nn.Linear4bit(
        p.case.k, p.case.n, bias=False, compute_dtype=p.x.dtype, quant_type=p.case.format,
        device="meta",
    )  # fmt: skip
    state = p.q.to_bitsandbytes()
    codes = state.pop("weight")
    stats = {name.removeprefix("weight."): t for name, t in state.items()}
    made.weight = bitsandbytes.nn.Params4bit.from_prequantized(
        codes, stats, device=p.x.device, module=made
    )
    return made.train(p.case.trains)


def qlora_linear(p: linear_op.Problem) -> Call:
    """The base alone: bitsandbytes has no adapters."""
    linear = layer(p)
    return without_adapter(linear_op.differentiated(lambda: linear(p.x), {"dx": p.x}, p), p)


qlora_linear_repeated = qlora_linear


def quantize(p: quantize_op.Problem) -> Call:
    """Codes alone are checked: its nested scales are not the exact nearest on the CPU."""
    from bitsandbytes.functional import quantize_4bit

    def run() -> dict[str, torch.Tensor]:
        codes, _ = quantize_4bit(p.w, compress_statistics=True, quant_type=p.case.format)
        return {"codes": codes}

    return run


def dequantize(p: dequantize_op.Problem) -> Call:
    """Into memory of its own: on the CPU it takes no output."""
    from bitsandbytes.functional import dequantize_4bit

    codes, state = codes_and_state(p.q)
    return lambda: {"w": dequantize_4bit(codes, state)}


def codes_and_state(q: qk.QuantizedTensor) -> tuple[torch.Tensor, Any]:
    """As its functions take them."""
    from bitsandbytes.functional import QuantState

    tensors = q.to_bitsandbytes()
    codes = tensors.pop("weight")
    stats = {name.removeprefix("weight."): t for name, t in tensors.items()}
    return codes, QuantState.from_dict(stats, device=q.device)


def adamw8bit(p: adamw_op.Problem) -> Call:
    """Its optimizer of as many bits."""
    from bitsandbytes import optim

    kinds = {"8bit": optim.AdamW8bit, "32bit": optim.AdamW32bit, "paged8bit": optim.PagedAdamW8bit}
    parameters = p.parameters()
    return adamw_op.stepping(kinds[p.case.format](parameters, **adamw_op.SETTINGS), parameters)
