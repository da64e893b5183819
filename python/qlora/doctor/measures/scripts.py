"""Whether the tokenizer, and so its base, knows the script that the training data is written in.

    characters per token = 1 / sum over scripts of share x tokens per character
    unknown script       = share of the letters in scripts that are cut into pieces of characters

`qlora.lint.scripts` says when a script counts as hardly known; nothing but the tokenizer is asked.
"""

from collections.abc import Iterator, Sequence

from qlora.data.rows import Row, read_rows
from qlora.doctor.facts import Fact
from qlora.doctor.subject import Subject
from qlora.lint.scripts import ScriptCost, measure_scripts
from qlora_kernels.errors import InputError


def measure(subject: Subject) -> list[Fact]:
    """characters_per_token and unknown_script."""
    texts = [text for _, row in read_rows(subject.settings.data) for text in texts_of(row)]
    costs = measure_scripts(subject.tokenizer, texts)
    if not costs:
        raise InputError(f"{subject.settings.data} should hold letters, holds none")
    told = ", ".join(
        f"{cost.share:.0%} {cost.script} at {cost.tokens_per_character:.2f} tokens a character"
        f" (English {cost.english:.2f}), {cost.piece_share:.0%} of them pieces of characters"
        for cost in costs[:2]
    )
    return [
        Fact("characters_per_token", characters_per_token(costs), detail=told),
        Fact("unknown_script", unknown_share(costs), detail=told),
    ]


def characters_per_token(costs: Sequence[ScriptCost]) -> float:
    """Of the text's letters: 1 / sum of share x tokens per character."""
    return 1 / sum(cost.share * cost.tokens_per_character for cost in costs)


def unknown_share(costs: Sequence[ScriptCost]) -> float:
    """Of the letters, those of scripts that the tokenizer hardly knows."""
    return sum(cost.share for cost in costs if cost.hardly_known)


def texts_of(row: Row) -> Iterator[str]:
    """All that a row holds, whichever its form."""
    for value in row.values():
        if isinstance(value, str):
            yield value
        else:
            yield from (message["content"] for message in value)
