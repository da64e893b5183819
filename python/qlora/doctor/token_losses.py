"""What a model thinks of each supervised token of some examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from qlora.data import Example
from qlora.doctor.samples import batches
from qlora.objective import CHUNK_BYTES, autocast, head_logits, supervise, supervised_hidden


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """Of m supervised tokens, those of n examples one after the other.

    loss: -log p of the label, [m] float64; confidence: the largest p, [m]; hit: whether the label
    is the token with the largest p, [m]; sizes: supervised tokens of each example, [n].
    """

    loss: Tensor
    confidence: Tensor
    hit: Tensor
    sizes: Tensor

    @property
    def mean(self) -> float:
        """Loss per token."""
        return float(self.loss.mean())

    @property
    def sums(self) -> Tensor:
        """Loss and tokens of each example, [n, 2]: what bootstrap and tests draw from."""
        return torch.stack([self.per_example(self.loss), self.sizes.double()], dim=1)

    def per_example(self, values: Tensor) -> Tensor:
        """Values of tokens [m, ...] added up by example, [n, ...]."""
        owner = torch.repeat_interleave(torch.arange(len(self.sizes)), self.sizes)
        total = torch.zeros(len(self.sizes), *values.shape[1:], dtype=torch.float64)
        return total.index_add_(0, owner, values.double())


@torch.no_grad()
def token_losses(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int = 0
) -> TokenLosses:
    """Run a model, which is in evaluation mode, over examples, each in a row of its own."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for indices in batches(examples):
        supervised = supervise([[examples[index]] for index in indices], pad_id)
        with autocast(model):
            hidden = supervised_hidden(model, supervised)
        values = _judged(model, hidden, supervised.labels)
        sizes = [examples[index].num_supervised for index in indices]
        parts = zip(*(value.split(sizes) for value in values), strict=True)
        found.update(zip(indices, parts, strict=True))
    ordered = [found[index] for index in range(len(examples))]
    loss, confidence, hit = (torch.cat(column) for column in zip(*ordered, strict=True))
    counts = torch.tensor([example.num_supervised for example in examples])
    return TokenLosses(loss, confidence, hit, counts)


def _judged(model: PreTrainedModel, hidden: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Loss, largest probability and hit of each label, on the CPU."""
    columns: list[tuple[Tensor, ...]] = []
    for part in chunks(model, len(labels)):
        logits = head_logits(model, hidden[part]).float()
        target = labels[part].to(logits.device)
        loss = functional.cross_entropy(logits, target, reduction="none").double()
        confidence = (logits.amax(-1) - logits.logsumexp(-1)).exp().double()
        columns.append((loss.cpu(), confidence.cpu(), (logits.argmax(-1) == target).cpu()))
    return tuple(torch.cat(column) for column in zip(*columns, strict=True))


def chunks(model: PreTrainedModel, count: int) -> Iterator[slice]:
    """Slices of tokens whose logits fit into little memory."""
    step = max(1, CHUNK_BYTES // (model.get_output_embeddings().out_features * 4))
    for start in range(0, count, step):
        yield slice(start, start + step)
