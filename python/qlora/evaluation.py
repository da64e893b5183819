"""Loss, perplexity and exact-match accuracy of a model on examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from qlora.data import Example
from qlora.objective import (
    CHUNK_BYTES,
    Supervised,
    autocast,
    head_logits,
    supervise,
    supervised_hidden,
)


@dataclass(frozen=True)
class Evaluation:
    """loss = mean of -log p over the supervised tokens, perplexity = exp(loss).

    accuracy: share of the prompts and conversations whose every supervised token, the end included,
    is the model's first choice given the true tokens before it: exactly those that greedy decoding
    reproduces. None for plain text.
    """

    loss: float
    perplexity: float
    accuracy: float | None
    num_examples: int
    num_tokens: int  # supervised


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    rows: Sequence[Sequence[Example]],
    pad_id: int = 0,
    batch_size: int = 4,
) -> Evaluation:
    """Evaluate a model, in evaluation mode, on rows of examples (`qlora.data.pack` makes them)."""
    training = model.training
    model.eval()
    loss, num_tokens, exact = 0.0, 0, list[bool]()
    try:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            supervised = supervise(some, pad_id)
            losses, hits = _judge(model, supervised)
            loss += losses
            num_tokens += len(supervised.labels)
            exact += _exact(hits, [example for row in some for example in row])
    finally:
        model.train(training)
    loss /= max(1, num_tokens)
    return Evaluation(
        loss=loss,
        perplexity=float(torch.tensor(loss, dtype=torch.float64).exp()),
        accuracy=sum(exact) / len(exact) if exact else None,
        num_examples=sum(map(len, rows)),
        num_tokens=num_tokens,
    )


def _judge(model: PreTrainedModel, supervised: Supervised) -> tuple[float, Tensor]:
    """Summed loss, in float64, and per label whether it is the argmax."""
    labels = supervised.labels.to(model.device)
    with autocast(model):
        hidden = supervised_hidden(model, supervised)
    rows_per_chunk = max(1, CHUNK_BYTES // (model.get_output_embeddings().out_features * 4))
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    hits = torch.empty_like(labels, dtype=torch.bool)
    for start in range(0, len(labels), rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        logits = head_logits(model, hidden[chunk]).float()
        loss += functional.cross_entropy(logits, labels[chunk], reduction="none").double().sum()
        hits[chunk] = logits.argmax(-1) == labels[chunk]
    return loss.item(), hits.cpu()


def _exact(hits: Tensor, examples: Sequence[Example]) -> list[bool]:
    """Per prompt or conversation: whether all its labels, which follow each other, were hit."""
    pieces = hits.split([example.num_supervised for example in examples])
    return [
        bool(piece.all())
        for piece, example in zip(pieces, examples, strict=True)
        if example.kind != "text"
    ]
