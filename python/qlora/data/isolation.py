"""Proof, by running it, that a model keeps packed examples apart."""

from typing import Any

import torch

from qlora.data.encode import IGNORE, Example
from qlora.data.packing import Batch, collate
from qlora_kernels.errors import InputError


@torch.no_grad()
def check_isolation(model: Any) -> None:
    """Refuse a transformers model in which one packed example changes the logits of its neighbour.

    Three rows go through the model: an example behind two different neighbours, and alone. State
    space models and attention that ignores `position_ids` fail; train those without packing.
    """
    rows = [[_example(1, 2, 3), _example(4, 5)], [_example(6, 7, 8), _example(4, 5)]]
    training = model.training
    model.eval()
    packed = _logits(model, collate(rows, pad_id=0))[:, 3:]
    alone = _logits(model, collate([rows[0][1:]], pad_id=0))[0]
    model.train(training)
    # A leak moves logits by tens of percent of their spread; other batch shapes by rounding only.
    tolerance = 0.05 * alone.std()
    if (packed - alone).abs().max() > tolerance:
        name = type(model).__name__
        raise InputError(f"packing: {name} should keep packed examples apart, but mixes them")


def _example(*ids: int) -> Example:
    return Example(list(ids), [IGNORE] * len(ids), "text", "check_isolation")


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    try:
        logits = model(**batch.to(model.device).inputs()).logits
    except (TypeError, ValueError) as error:  # unknown argument, by Python or by the model
        name = type(model).__name__
        raise InputError(f"packing: {name} should take position_ids, but does not") from error
    return torch.as_tensor(logits).float()
