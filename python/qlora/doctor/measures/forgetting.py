"""What tuning did to text that has nothing to do with it.

    divergence = mean over tokens t of sum over w of p_base(w | t) (log p_base - log p_tuned)(w | t)
    forgetting = loss of the tuned model - loss of the base

on a probe text: a file of the user's, else a few paragraphs of plain English (`probe.txt`, written
for this). A large divergence alone says that the model answers otherwise, as every tuning for a
style makes it do; forgetting says that it answers worse. The probe stands for what the base knew:
to a base of another language, or of no prose, give a text that it knows. Intervals are bootstraps
over pieces of 64 tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

import qlora_kernels as qk
from qlora.data import Example
from qlora.doctor.facts import Fact
from qlora.doctor.resampling import bootstrap_totals, interval
from qlora.doctor.samples import batches
from qlora.doctor.subject import Subject
from qlora.doctor.token_losses import chunks
from qlora.objective import autocast, head_logits, supervise, supervised_hidden


def measure(subject: Subject) -> list[Fact]:
    """forgetting and forgetting_divergence."""
    examples = subject.examples("probe")
    sums = compare(subject.model, examples, subject.pad_id)
    base, tuned, divergence, count = sums.sum(dim=0).tolist()
    drawn = bootstrap_totals(sums, subject.budget.seed)
    detail = (
        f"{tuned / count:.3f} nats a token on {subject.probe_name}, the base {base / count:.3f};"
        f" its probabilities are {divergence / count:.3f} nats (KL) from the base's"
    )
    return [
        Fact(
            "forgetting",
            (tuned - base) / count,
            *interval((drawn[:, 1] - drawn[:, 0]) / drawn[:, 3], len(sums)),
            detail,
        ),
        Fact(
            "forgetting_divergence",
            divergence / count,
            *interval(drawn[:, 2] / drawn[:, 3], len(sums)),
            detail,
        ),
    ]


@torch.no_grad()
def compare(model: PreTrainedModel, examples: Sequence[Example], pad_id: int) -> Tensor:
    """Of each example the base's loss, the tuned model's, KL and tokens: sums [n, 4], float64."""
    sums = torch.zeros(len(examples), 4, dtype=torch.float64)
    for indices in batches(examples):
        supervised = supervise([[examples[index]] for index in indices], pad_id)
        with autocast(model):
            tuned = supervised_hidden(model, supervised)
            with qk.nn.disable_adapters(model):
                base = supervised_hidden(model, supervised)
        owner = torch.repeat_interleave(
            torch.tensor(indices), torch.tensor([examples[i].num_supervised for i in indices])
        )
        for part in chunks(model, len(supervised.labels)):
            logits = head_logits(model, tuned[part]).float()
            with qk.nn.disable_adapters(model):
                base_logits = head_logits(model, base[part]).float()
            sums.index_add_(
                0, owner[part], _per_token(base_logits, logits, supervised.labels[part])
            )
    return sums


def _per_token(base_logits: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Both losses, KL and 1 for each token, [m, 4] on the CPU."""
    labels = labels.to(logits.device)
    losses = [
        functional.cross_entropy(some, labels, reduction="none").double()
        for some in (base_logits, logits)
    ]
    distance = divergence(base_logits.double(), logits.double())
    return torch.stack([*losses, distance, torch.ones_like(distance)], dim=1).cpu()


def divergence(base_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(base || tuned) in nats, from logits [..., vocabulary]."""
    base, tuned = base_logits.log_softmax(-1), logits.log_softmax(-1)
    return (base.exp() * (base - tuned)).sum(-1)
