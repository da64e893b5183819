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


@dataclass(frozen=True)
class ExampleScore:
    """One example's summed loss, over so many tokens, and whether it is exact (see Evaluation)."""

    loss: float
    num_tokens: int
    exact: bool | None


def evaluate(
    model: PreTrainedModel,
    rows: Sequence[Sequence[Example]],
    pad_id: int = 0,
    batch_size: int = 4,
) -> Evaluation:
    """Evaluate a model, in evaluation mode, on rows of examples (`qlora.data.pack` makes them)."""
    return evaluate_examples(model, rows, pad_id, batch_size)[0]


@torch.no_grad()
def evaluate_examples(
    model: PreTrainedModel,
    rows: Sequence[Sequence[Example]],
    pad_id: int = 0,
    batch_size: int = 4,
) -> tuple[Evaluation, list[ExampleScore]]:
    """The same, and each example's part in it, in the order of the rows."""
    training = model.training
    model.eval()
    loss, num_tokens, scores = 0.0, 0, list[ExampleScore]()
    try:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            supervised = supervise(some, pad_id)
            summed, losses, hits = _judge(model, supervised)
            loss += summed
            num_tokens += len(supervised.labels)
            scores += _scores(losses, hits, [example for row in some for example in row])
    finally:
        model.train(training)
    loss /= max(1, num_tokens)
    exact = [score.exact for score in scores if score.exact is not None]
    evaluation = Evaluation(
        loss=loss,
        perplexity=float(torch.tensor(loss, dtype=torch.float64).exp()),
        accuracy=sum(exact) / len(exact) if exact else None,
        num_examples=sum(map(len, rows)),
        num_tokens=num_tokens,
    )
    return evaluation, scores


def _judge(model: PreTrainedModel, supervised: Supervised) -> tuple[float, Tensor, Tensor]:
    """Summed loss, in float64; per label its loss, and whether it is the argmax."""
    labels = supervised.labels.to(model.device)
    with autocast(model):
        hidden = supervised_hidden(model, supervised)
    rows_per_chunk = max(1, CHUNK_BYTES // (model.get_output_embeddings().out_features * 4))
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    losses = torch.empty(len(labels), dtype=torch.float64, device=hidden.device)
    hits = torch.empty_like(labels, dtype=torch.bool)
    for start in range(0, len(labels), rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        logits = head_logits(model, hidden[chunk]).float()
        some = functional.cross_entropy(logits, labels[chunk], reduction="none").double()
        losses[chunk] = some
        loss += some.sum()
        hits[chunk] = logits.argmax(-1) == labels[chunk]
    return loss.item(), losses.cpu(), hits.cpu()


def _scores(losses: Tensor, hits: Tensor, examples: Sequence[Example]) -> list[ExampleScore]:
    """Cut labels, which follow each other, into those of each prompt, conversation or text."""
    counts = [example.num_supervised for example in examples]
    pieces = zip(losses.split(counts), hits.split(counts), examples, strict=True)
    return [
        ExampleScore(float(some.sum()), len(some), None if e.kind == "text" else bool(hit.all()))
        for some, hit, e in pieces
    ]
