"""Whether the data leave anything to learn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qlora.data import Example
from qlora_kernels.errors import InputError

FEW = 0.01  # of the tokens: below it, nearly all of a step is spent on reading


@dataclass(frozen=True)
class Labels:
    """Tokens that carry loss, of all."""

    supervised: int
    tokens: int
    examples: int

    @staticmethod
    def of(rows: Iterable[Sequence[Example]]) -> "Labels":
        """Count; raises InputError where nothing carries loss."""
        examples = [example for row in rows for example in row]
        supervised = sum(example.num_supervised for example in examples)
        counted = Labels(supervised, sum(map(len, examples)), len(examples))
        if not supervised:
            raise InputError(
                f"preflight: labels should leave tokens to learn, all {counted.tokens:,} of"
                f" {counted.examples:,} examples are masked; check that answers follow their"
                " prompts and are not cut off by --sequence-length"
            )
        return counted

    @property
    def share(self) -> float:
        """Of the tokens."""
        return self.supervised / self.tokens

    @property
    def warning(self) -> str | None:
        """A sentence where hardly any token carries loss."""
        if self.share >= FEW:
            return None
        each = self.supervised / self.examples
        return (
            f"only {self.supervised:,} of {self.tokens:,} tokens ({self.share:.2%}) carry loss,"
            f" {each:.1f} an example; check that answers are not cut off by --sequence-length, and"
            " shorten prompts if they are meant to be so long"
        )
