"""The state of one parameter, under torch's names, and the segment that a step sees of it."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from qlora_kernels.checks import InputError, check_dtype
from qlora_kernels.formats.blockwise8 import num_blocks, zero_code
from qlora_kernels.ops.adamw import Segment
from qlora_kernels.ops.adamw.segment import PARAMETER_DTYPES
from qlora_kernels.optim.sharded import local

State = dict[str, Tensor]


def check_parameters(parameters: Sequence[Tensor]) -> None:
    """Refuse what a step could not update in place, or would update twice at once."""
    counts = Counter(parameters)
    for parameter in parameters:
        if not (parameter.is_floating_point() or parameter.is_complex()):
            continue  # codes among a model's parameters, which never have a gradient
        check_dtype("AdamW", "a parameter", parameter, PARAMETER_DTYPES)
        shape = list(parameter.shape)
        if not local(parameter).is_contiguous():
            raise InputError(f"AdamW: a parameter should be contiguous, was strided, {shape}")
        if counts[parameter] > 1:
            raise InputError(f"AdamW: a parameter should be in a group once, was twice, {shape}")


def new_state(parameter: Tensor, bits: int, master_weights: bool) -> State:
    """The state before the first step; exp_avg and exp_avg_sq have the parameter's shape."""
    state = {"step": torch.zeros((), device=parameter.device)}
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        if bits == 8:
            zero = zero_code(signed)
            state[name] = torch.full_like(parameter, zero, dtype=torch.uint8, requires_grad=False)
            blocks = num_blocks(parameter.numel())
            state[f"{name}_absmax"] = torch.zeros(blocks, device=parameter.device)
        else:
            state[name] = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
    if master_weights and parameter.dtype != torch.float32:
        state["master"] = parameter.detach().float()
    return state


def segment_of(parameter: Tensor, state: State) -> Segment:
    """All of a parameter and its state as one segment: flat views, no copies."""
    flat = {n: t if n == "step" else t.view(-1) for n, t in state.items()}
    return Segment(parameter.detach().view(-1), **flat)


def places(parameter: Tensor, state: State) -> tuple[int, ...]:
    """Where a parameter and its states lie: a segment views them as long as these are the same."""
    return parameter.data_ptr(), state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr()


def contiguous_gradient(gradient: Tensor) -> Tensor:
    """A gradient, or what this process holds of it, contiguous; refuses one that is not dense."""
    if gradient.layout != torch.strided:
        layout = str(gradient.layout).removeprefix("torch.")
        raise InputError(f"AdamW: a gradient should be dense, was {layout}")
    return local(gradient).contiguous()
