"""The gradient of a layer's full weight, as a frozen base would have it, seen through few columns.

    y = x W^T,    G = dLoss/dW = dY^T X    [out, in]

The base is frozen, so autograd never makes G; but X and dY pass by. `G R = dY^T (X R)` is small for
an R [in, c] of few columns and needs nothing dense. Grouped layers (q, k and v in one op call) are
seen one by one, for each is called as a module; DoRA's W is the effective weight, `c (W + s B A)`
with c = magnitude / norm.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora.data import Example
from qlora.doctor.samples import batches
from qlora.objective import loss_sum, supervise

BATCH_TOKENS = 1_024  # backward keeps what forward made


def gradient_products(
    model: PreTrainedModel,
    columns: Mapping[str, Tensor],
    examples: Sequence[Example],
    pad_id: int = 0,
) -> dict[str, Tensor]:
    """`G R` [out, c] of each named layer for its R [in, c], float32.

    The loss is the mean over the supervised tokens of all examples; nothing drops in evaluation
    mode, in which the model must be. Parameters get no gradients.
    """
    products = {name: torch.zeros(0) for name in columns}
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = [
        model.get_submodule(name).register_forward_hook(_adding(name, r, products))
        for name, r in columns.items()
    ]
    hooks.append(model.get_input_embeddings().register_forward_hook(_differentiable))
    count = sum(example.num_supervised for example in examples)
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for indices in batches(examples, BATCH_TOKENS):
            supervised = supervise([[examples[index]] for index in indices], pad_id)
            (loss_sum(model, supervised) / count).backward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
    return products


def _adding(
    name: str, columns: Tensor, products: dict[str, Tensor]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1]).float()
            narrow = rows @ columns.to(x.device)  # less to keep than x

        def add(dy: Tensor) -> None:
            product = dy.reshape(-1, dy.shape[-1]).float().T @ narrow
            held = products[name]
            products[name] = held + product if held.numel() else product

        output.register_hook(add)

    return watch


def _differentiable(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Lets gradients flow through a model of which nothing else wants one."""
    return output.detach().requires_grad_(True)
