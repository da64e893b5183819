"""Whether examples teach an answer, or only where it ends.

unanswered_examples = examples with no label but the end of the text / all

A template that closes the prompt behind the answer leaves one label an example, the end token. The
loss falls all the same, and fast: nothing is easier to learn than to stop.
"""

from collections.abc import Sequence

from qlora.data import Example
from qlora.data.encode import IGNORE
from qlora.doctor.facts import Fact
from qlora.doctor.subject import Subject


def measure(subject: Subject) -> list[Fact]:
    """unanswered_examples, over all training examples."""
    examples = subject.every_example("training")
    end = subject.tokenizer.eos_token_id
    empty = [example for example in examples if teaches_nothing(example, end)]
    named = f", as {empty[0].source}" if empty else ""
    detail = f"{len(empty)} of {len(examples)} examples teach only where to stop{named}"
    return [Fact("unanswered_examples", unanswered_share(examples, end), detail=detail)]


def unanswered_share(examples: Sequence[Example], end: int | None) -> float:
    """Examples that teach nothing but the end / all."""
    return sum(teaches_nothing(example, end) for example in examples) / len(examples)


def teaches_nothing(example: Example, end: int | None) -> bool:
    """Whether no label is left besides the end token."""
    return not any(label not in (IGNORE, end) for label in example.labels)
