"""The ways of answering that the demo compares, each as a share of right answers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from qlora.data import pack, read_examples
from qlora.data.encode import pad_token, prompt_tokens
from qlora.demo.intents import Row
from qlora.demo.zero_shot import LabelTree, label_scores
from qlora.evaluation import Evaluation, evaluate
from qlora.generate import GenerateSettings, complete

SEQUENCE_LENGTH = 256


def exact_answers(model: PreTrainedModel, tokenizer: Any, data: Path) -> Evaluation:
    """How many prompts of `data` the model answers with exactly the intent, and then stops."""
    examples = read_examples(data, tokenizer, SEQUENCE_LENGTH)
    return evaluate(model, pack(examples, SEQUENCE_LENGTH), pad_token(tokenizer), batch_size=2)


def majority_accuracy(train: Sequence[Row], test: Sequence[Row]) -> float:
    """Always answering the intent that is most frequent in `train`."""
    [(intent, _)] = Counter(row.intent for row in train).most_common(1)
    return _share(row.intent == intent for row in test)


def zero_shot_accuracy(
    model: PreTrainedModel, tokenizer: Any, intents: Sequence[str], test: Sequence[Row]
) -> float:
    """Choosing the intent whose name the utterance makes likeliest, against no utterance at all.

    Names are spelled as words ("turn on"), and a name's score without an utterance is taken off
    (Holtzman et al. 2021, "Surface form competition"): both help the untrained model.
    """
    tree = LabelTree([prompt_tokens(tokenizer, f" {_in_words(intent)}") for intent in intents])

    def scores(utterance: str) -> Any:
        prompt = f"Utterance: {utterance}\nIntent:"
        return label_scores(model, prompt_tokens(tokenizer, prompt), tree)

    without = scores("N/A")
    chosen = (int((scores(row.utterance) - without).argmax()) for row in test)
    return _share(intents[place] == row.intent for place, row in zip(chosen, test, strict=True))


def answers(model: PreTrainedModel, tokenizer: Any, rows: Sequence[Row]) -> list[str]:
    """What the model writes, token by token, behind each prompt."""
    written = []
    for row in rows:
        settings = GenerateSettings(Path(), row.prompt, max_new_tokens=12)
        written.append(complete(model, tokenizer, row.prompt, settings).completion)
    return written


def _in_words(intent: str) -> str:
    """`HassTurnOn` -> `turn on`."""
    return " ".join(re.findall("[A-Z][a-z]*", intent.removeprefix("Hass"))).lower()


def _share(right: Iterable[bool]) -> float:
    judged = list(right)
    return sum(judged) / len(judged)
