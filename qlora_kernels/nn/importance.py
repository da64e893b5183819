"""How much each input feature of a layer matters: what `quantize` weighs errors by."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.nn.qlora_linear import is_conv1d

Batch = torch.Tensor | Mapping[str, Any]


@torch.no_grad()
def measure_importance(model: nn.Module, batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """`importance[name][j] = mean of x[..., j]^2` over the inputs x of each linear layer.

    Runs the model on each batch (a tensor, or a mapping of keyword arguments) in eval mode; nothing
    of it changes. A few thousand tokens of ordinary text are enough, without padding, which would
    count as well. Returns float32 [in_features] by layer name, for `prepare_model` and `quantize`.
    The same statistic as the importance matrix of llama.cpp.

    Raises InputError for a model without linear layers, and where no batch came.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) or is_conv1d(m)}
    if not layers:
        raise InputError("measure_importance: model should hold linear layers, holds none")
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(layers, 0)
    hooks = [m.register_forward_pre_hook(_adding(n, sums, counts)) for n, m in layers.items()]
    was_training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for batch in batches:
            model(**batch) if isinstance(batch, Mapping) else model(batch)
    finally:
        for module, mode in was_training.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    if not any(counts.values()):
        raise InputError("measure_importance: batches should reach a linear layer, reached none")
    return {name: (total / counts[name]).float() for name, total in sums.items() if counts[name]}


def _adding(
    name: str, sums: dict[str, torch.Tensor], counts: dict[str, int]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def add(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach()
        x = x.reshape(-1, x.shape[-1])
        squares = x.float().square().sum(dim=0).double()
        sums[name] = sums[name] + squares if name in sums else squares
        counts[name] += len(x)

    return add
