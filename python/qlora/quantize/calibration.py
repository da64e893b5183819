"""Which inputs of each layer matter, found by running the model over a text."""

from collections.abc import Iterator
from pathlib import Path

import torch

import qlora_kernels as qk
from qlora.export.checkpoint import Progress
from qlora.models import load_model
from qlora_kernels.errors import InputError

WINDOW = 512  # tokens
MAX_WINDOWS = 32  # from all over the text


def importance_of(model: Path, text: Path, progress: Progress) -> dict[str, torch.Tensor]:
    """`measure_importance` over windows of the text; the dense model is in memory meanwhile.

    Raises InputError for a text that cannot be read or is shorter than one window.
    """
    try:
        words = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"quantize: {text} should be a text in UTF-8: {error}") from None
    loaded, tokenizer = load_model(model)
    windows = windows_of(tokenizer(words, verbose=False)["input_ids"])
    if not windows:
        raise InputError(f"quantize: {text} should have {WINDOW} tokens or more, has fewer")

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for done, window in enumerate(windows, start=1):
            yield {"input_ids": window[None]}
            progress(done, len(windows), "calibrating")

    return qk.nn.measure_importance(loaded, batches())


def windows_of(tokens: list[int]) -> list[torch.Tensor]:
    """At most MAX_WINDOWS windows, at even distances."""
    starts = range(0, len(tokens) - WINDOW + 1, WINDOW)
    step = max(1, -(-len(starts) // MAX_WINDOWS))
    return [torch.tensor(tokens[start : start + WINDOW]) for start in starts[::step]]
