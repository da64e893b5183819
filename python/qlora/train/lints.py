"""What a run says about its data before the first step."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from qlora.data import Example
from qlora.lint import Notice, Passages, Tokenized, lint, read_passages
from qlora.lint.tokens import as_ends
from qlora.recipe.notices import few_examples, strong_dropout
from qlora.train.settings import TrainSettings


def lint_run(
    settings: TrainSettings,
    model: PreTrainedModel,
    tokenizer: Any,
    sets: tuple[Sequence[Example], Sequence[Example]],
) -> tuple[Notice, ...]:
    """All lints of (training, validation) examples as they will be trained on, and of settings."""
    training, validation = sets
    passages = read_passages(settings.data)
    if settings.validation:
        parts = Passages.apart(passages, read_passages(settings.validation))
    else:
        # A document of which pieces are on both sides is no leak: they are different pieces.
        held = {e.source for e in validation} - {e.source for e in training}
        parts = Passages.parted(passages, held)
    ends = as_ends(getattr(model.generation_config, "eos_token_id", None))
    tokenized = Tokenized(tokenizer, [*training, *validation], settings.sequence_length, ends=ends)
    num_examples = len(training) + (0 if settings.validation else len(validation))
    return (
        *few_examples(num_examples),
        *strong_dropout(settings),
        *lint(parts, tokenized),
    )
