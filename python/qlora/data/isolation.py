"""Proof, by running it, that a model keeps packed examples apart."""

from typing import Any

import torch
from torch import Tensor

from qlora.data.encode import IGNORE, Example
from qlora.data.packing import collate
from qlora_kernels.errors import InputError

# Of the logits' spread. Without a leak most models give the same bits, since all shapes are the
# same; a mixture of experts, which gathers tokens by content, may round bf16 differently.
TOLERANCE = 2**-8


@torch.no_grad()
def check_isolation(model: Any) -> None:
    """Refuse a transformers model in which one packed example changes the logits of its neighbour.

    Two rows go through the model: the same example behind two different ones. State space models
    and attention that ignores `position_ids` fail; train those without packing.
    """
    training = model.training
    model.eval()
    try:
        first, second = (_logits_behind(model, neighbour) for neighbour in ((1, 2, 3), (6, 7, 8)))
    finally:
        model.train(training)
    spread = (first - first.mean(-1, keepdim=True)).norm(dim=-1)
    if not ((first - second).norm(dim=-1) <= TOLERANCE * spread).all():  # NaN is no proof
        name = type(model).__name__
        raise InputError(f"packing: {name} should keep packed examples apart, but mixes them")


def _logits_behind(model: Any, neighbour: tuple[int, ...]) -> Tensor:
    """Logits [tokens, vocabulary] of one example that stands behind `neighbour` in its row."""
    row = [_example(*neighbour), _example(4, 5)]
    inputs = collate([row], pad_id=0).to(model.device).inputs()
    try:
        logits = model(**inputs).logits
    except (TypeError, ValueError) as error:  # unknown argument, by Python or by the model
        name = type(model).__name__
        raise InputError(f"packing: {name} should take position_ids, but does not") from error
    return torch.as_tensor(logits[0, len(neighbour) :]).float()


def _example(*ids: int) -> Example:
    return Example(list(ids), [IGNORE] * len(ids), "text", "check_isolation")
