"""What a model in memory can do: right answers and losses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from qlora.data import Example, pack, read_examples
from qlora.data.encode import IGNORE, pad_token
from qlora.evaluation import evaluate
from qlora_kernels.files import write_text

ENGLISH_LENGTH = 64


@dataclass(frozen=True)
class Score:
    """right: share of rows whose every token is the model's first choice; loss: nats per token."""

    right: float | None
    loss: float


class Examiner:
    """A tokenizer, and rows as examples of at most `length` tokens."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def read(self, path: Path) -> list[Example]:
        return read_examples(path, self._tokenizer, self._length)

    def score(self, model: PreTrainedModel, examples: Sequence[Example]) -> Score:
        """Over all tokens and rows."""
        rows = pack(examples, self._length)
        result = evaluate(model, rows, pad_token(self._tokenizer))
        return Score(result.accuracy, result.loss)

    def english(self, model: PreTrainedModel, text: str, folder: Path) -> float:
        """Nats per token of plain English."""
        path = write_text(folder / "english.txt", text)
        examples = read_examples(path, self._tokenizer, ENGLISH_LENGTH)
        rows = pack(examples, ENGLISH_LENGTH)
        return evaluate(model, rows, pad_token(self._tokenizer)).loss


def without_end(example: Example) -> Example:
    """The same but for its last label: an untrained model is not told that a line ends the text."""
    labels = [*example.labels[:-1], IGNORE]
    return replace(example, labels=labels)
