"""What a model with some adapter can do: right answers, loss, perplexity, length, when it stops."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

import qlora_kernels as qk
from bench.merging.tasks import SKILLS, STYLES, make_task, plain_text, write_rows
from qlora.data import Example, pack, read_examples
from qlora.data.encode import pad_token
from qlora.evaluation import evaluate
from qlora.generate import GenerateSettings, complete
from qlora.models import load_tuned
from qlora.objective import head_weight, supervise, supervised_hidden
from qlora_kernels.files import write_text

SEQUENCE_LENGTH = 256
NUM_STYLE_ROWS = 60
NUM_WRITTEN = 16  # prompts that are really answered, token by token, to see how long answers are
MAX_WRITTEN = 60  # tokens


@dataclass(frozen=True)
class Skills:
    """accuracy: share of exactly right answers; loss: per token of the right answers; both by task.

    perplexity: of plain text that is nobody's task.
    """

    accuracy: dict[str, float]
    loss: dict[str, float]
    perplexity: float


@dataclass(frozen=True)
class Style:
    """loss: per token of the true answers, by style. stops: p(end) behind the short answer, mean.

    tokens: mean number of written tokens, the end included.
    """

    loss: dict[str, float]
    stops: float
    tokens: float


class Judge:
    """The base model, into which adapters are put in turn, and the held-out data."""

    def __init__(self, model: Path, wordnet: Path, folder: Path) -> None:
        """Load the model in the format it was trained on, and write the held-out data."""
        self._model, self._tokenizer = load_tuned(model, None, qk.QLoRAConfig())
        tests = {name: make_task(name, 0, 1, wordnet).test for name in (*SKILLS, *STYLES)}
        for style in STYLES:
            tests[style] = tests[style][:NUM_STYLE_ROWS]
        self._exams = {
            name: self._read(write_rows(rows, folder / f"{name}.jsonl"))
            for name, rows in tests.items()
        }
        self._text = self._read(write_text(folder / "text.txt", plain_text(wordnet)))
        self._prompts = [row.prompt for row in tests["short"][:NUM_WRITTEN]]

    def put(self, adapter: Path | None) -> PreTrainedModel:
        """The model with the adapter of a folder, or (None) without."""
        if adapter is not None:
            qk.load_adapter(self._model, adapter)
        else:
            for layer in self._model.modules():
                if isinstance(layer, qk.nn.QLoRALinear):
                    layer.remove_adapter()
        return self._model

    def skills(self, adapter: Path | None) -> Skills:
        """What it knows of both tasks, and what became of its English."""
        model = self.put(adapter)
        results = {name: self._evaluate(model, self._exams[name]) for name in SKILLS}
        return Skills(
            {name: result.accuracy or 0.0 for name, result in results.items()},
            {name: result.loss for name, result in results.items()},
            self._evaluate(model, self._text).perplexity,
        )

    def style(self, adapter: Path | None) -> Style:
        """How it answers: in short or at length."""
        model = self.put(adapter)
        settings = GenerateSettings(Path(), "", max_new_tokens=MAX_WRITTEN)
        written = [complete(model, self._tokenizer, p, settings).tokens for p in self._prompts]
        return Style(
            {name: self._evaluate(model, self._exams[name]).loss for name in STYLES},
            end_probability(model, self._exams["short"]),
            sum(written) / len(written),
        )

    def _evaluate(self, model: PreTrainedModel, examples: list[Example]) -> Any:
        return evaluate(model, pack(examples, SEQUENCE_LENGTH), pad_token(self._tokenizer))

    def _read(self, path: Path) -> list[Example]:
        return read_examples(path, self._tokenizer, SEQUENCE_LENGTH)


@torch.no_grad()
def end_probability(model: PreTrainedModel, examples: Sequence[Example]) -> float:
    """Mean probability of the last token of each example, given all before it."""
    rows = [[example] for example in examples]
    found = []
    for start in range(0, len(rows), 4):
        some = rows[start : start + 4]
        supervised = supervise(some, pad_id=0)
        ends = torch.tensor([example.num_supervised for [example] in some]).cumsum(0) - 1
        hidden = supervised_hidden(model, supervised)[ends]
        logits = functional.linear(hidden, head_weight(model)).float()
        found.append(logits.softmax(-1).gather(1, supervised.labels[ends][:, None]))
    return torch.cat(found).mean().item()
