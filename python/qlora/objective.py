"""The loss of a causal LM on its supervised tokens, without logits of the whole vocabulary.

    loss = sum over supervised t of -log softmax(W h[t - 1])[token t],    W the output head

The base transformer gives the hidden states h; the head is applied to the supervised positions
only, in chunks. `qlora.probe` proves beforehand that a model's own logits are `W h`. An adapted
head is called as the module that it is, and its logits are computed again in backward.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

import qlora_kernels as qk
from qlora.data import IGNORE, Batch, Example, collate

CHUNK_BYTES = 64 * 2**20  # of float32 logits at a time


@dataclass(frozen=True, eq=False)
class Supervised:
    """A batch and the flat positions [m] in its [rows, length - 1] whose next token is a label."""

    batch: Batch
    positions: Tensor  # [m]
    labels: Tensor  # [m]


def supervise(rows: Sequence[Sequence[Example]], pad_id: int) -> Supervised:
    """Collate rows of examples and find what is to be predicted in them."""
    batch = collate(rows, pad_id)
    labels = batch.labels[:, 1:].flatten()
    positions = (labels != IGNORE).nonzero().flatten()
    return Supervised(batch, positions, labels[positions])


def loss_sum(model: PreTrainedModel, supervised: Supervised) -> Tensor:
    """Summed loss of a batch, differentiable; divide by the labels of the whole step."""
    labels = supervised.labels.to(model.device)
    with autocast(model):
        hidden = supervised_hidden(model, supervised)
        if is_adapted(model.get_output_embeddings()):
            return _through_head(model.get_output_embeddings(), hidden, labels)
    return qk.ops.linear_cross_entropy(hidden, head_weight(model), labels, reduction="sum")


def is_adapted(head: nn.Module) -> bool:
    """Whether the head is more than its weight: an adapter, or rows of tokens."""
    return isinstance(head, (qk.nn.QLoRALinear, qk.nn.TokenHead))


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What the head makes of hidden states [m, k], without a bias of a plain one: [m, v]."""
    head = model.get_output_embeddings()
    if head.weight.is_floating_point():
        hidden = hidden.to(head.weight.dtype)
    if is_adapted(head):
        return cast(Tensor, head(hidden))
    return functional.linear(hidden, head.weight)


def _through_head(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    rows = max(1, CHUNK_BYTES // (4 * head.out_features))  # type: ignore[operator]

    def part(hidden: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(head(hidden).float(), labels, reduction="sum")

    parts = zip(hidden.split(rows), labels.split(rows), strict=True)
    return torch.stack([checkpoint(part, h, y, use_reentrant=False) for h, y in parts]).sum()


def supervised_hidden(model: PreTrainedModel, supervised: Supervised) -> Tensor:
    """Hidden states [m, k] that predict the labels."""
    hidden = hidden_states(model, supervised.batch)[:, :-1]
    flat = hidden.reshape(-1, hidden.shape[-1])
    return flat.index_select(0, supervised.positions.to(flat.device))


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states [rows, length, k] of the base transformer."""
    base = model.base_model
    known = inspect.signature(base.forward).parameters
    inputs: dict[str, Any] = batch.to(model.device).inputs()
    outputs = base(**{name: value for name, value in inputs.items() if name in known})
    return cast(Tensor, outputs.last_hidden_state)


def head_weight(model: PreTrainedModel) -> Tensor:
    """The output head [v, k]."""
    return cast(Tensor, model.get_output_embeddings().weight)


def vocabulary_size(model: PreTrainedModel) -> int:
    """Token ids that the model has an embedding for."""
    return cast(Tensor, model.get_input_embeddings().weight).shape[0]


def autocast(model: PreTrainedModel) -> torch.autocast:
    """bf16 autocast for a model that was loaded in bf16, which is where the device has it."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)
