"""What decides a run's numbers: a checkpoint continues only a run of the same identity."""

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from qlora.data import Example
from qlora.train.settings import TrainSettings

Identity = dict[str, Any]

# Settings that change where, how often or how far, or that digests stand for.
FREE = {
    *("model", "data", "validation", "validation_split", "output", "resume", "epochs", "steps"),
    *("gradient_checkpointing", "evaluate_every", "patience", "save_every", "keep"),
    *("optimizer_memory", "preflight", "from_adapter", "replay"),
}
SAME_BITS = {"paged-adamw-8bit": "adamw-8bit"}  # where states lie decides nothing
SAMPLES = 1024  # values per parameter that the model's digest reads


def identity(
    settings: TrainSettings,
    steps: int,
    model: nn.Module,
    examples: tuple[Iterable[Example], Iterable[Example]],
) -> Identity:
    """Names and values; for the model and the (training, validation) examples their digests."""
    decisive = {n: _as_stored(v) for n, v in asdict(settings).items() if n not in FREE}
    training, validation = examples
    return {
        **decisive,
        "optimizer": SAME_BITS.get(settings.optimizer, settings.optimizer),
        "steps": steps,
        "model (digest)": _model_digest(model),
        "training data (digest)": data_digest(training),
        "validation data (digest)": data_digest(validation),
    }


def differences(then: Identity, now: Identity) -> str:
    """`rank should be 16, was 8; seed ...`: empty for two equal identities."""
    return "; ".join(
        f"{name} should be {then.get(name)}, was {now.get(name)}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    )


def _as_stored(value: Any) -> Any:
    """What JSON gives back: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value


def data_digest(examples: Iterable[Example]) -> str:
    """Of all tokens and labels, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for example in examples:
        digest.update(array("q", [len(example), *example.input_ids, *example.labels]))
    return digest.hexdigest()


def _model_digest(model: nn.Module) -> str:
    """Of some values of every frozen parameter, so that large models cost little."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            some = flat[:: max(1, flat.numel() // SAMPLES)].contiguous().view(torch.uint8)
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(some.cpu().numpy().tobytes())
    return digest.hexdigest()
