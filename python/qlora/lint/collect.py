"""All lints of one data set."""

from collections.abc import Sequence

from qlora.data.sampling import sample
from qlora.lint.notice import Notice
from qlora.lint.passages import Passages
from qlora.lint.repeats import find_duplicates, find_leakage
from qlora.lint.scripts import ScriptCost, measure_scripts
from qlora.lint.tokens import (
    Tokenized,
    find_doubled_beginnings,
    find_foreign_ends,
    find_missing_ends,
    find_pad_as_end,
    find_truncation,
    find_unlearnable,
)

SAMPLE = 5_000  # passages whose scripts are measured
RARE = 0.01  # share of the letters below which a script is a name or a quotation


def lint(passages: Passages, tokenized: Tokenized | None = None) -> list[Notice]:
    """What is wrong with the data, the worst first; without a tokenizer only what texts show."""
    notices = find_leakage(passages)
    if tokenized is not None:
        notices += find_unlearnable(tokenized)
        texts = [passage.text for passage in sample(passages.file, SAMPLE)]
        notices += find_scripts(measure_scripts(tokenized.tokenizer, texts))
        notices += find_missing_ends(tokenized)
        notices += find_doubled_beginnings(tokenized)
        pairs = [(passage.source, passage.text) for passage in passages.file]
        notices += find_foreign_ends(tokenized.tokenizer, pairs)
        notices += find_truncation(tokenized)
    notices += find_duplicates(passages)
    if tokenized is not None:
        notices += find_pad_as_end(tokenized.tokenizer)
    return notices


def find_scripts(costs: Sequence[ScriptCost]) -> list[Notice]:
    """Scripts of which the base can hardly have met a text."""
    return [
        Notice(
            "unknown-script",
            f"{cost.share:.0%} of the letters are {cost.script}, a script that this base hardly"
            " knows: its tokenizer has no tokens for most of the letters",
            (
                f"{cost.tokens_per_character:.2f} tokens per character, English takes"
                f" {cost.english:.2f}; {cost.piece_share:.0%} of them are pieces of a letter",
                f"as in {cost.example!r}",
            ),
            "take a multilingual base (such as Qwen 3 or Gemma 3): adapters over a frozen base"
            " cannot teach it letters that it never met",
        )
        for cost in costs
        if cost.hardly_known and cost.share >= RARE
    ]
