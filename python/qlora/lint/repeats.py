"""Passages that stand in the data twice, and those that are trained and validated on alike."""

from collections import defaultdict
from collections.abc import Sequence

from qlora.lint.notice import Notice, quoted, share
from qlora.lint.passages import Passage, Passages

SHOWN = 3  # examples of each finding

# Characters of a paragraph of .txt: shorter ones, as "Enter HAMLET.", are the same for good reason.
PARAGRAPH = 80


def find_duplicates(passages: Passages) -> list[Notice]:
    """Passages of the training file that repeat another, but for case and blanks."""
    compared = comparable(passages.file)
    groups: dict[bytes, list[Passage]] = defaultdict(list)
    for passage in compared:
        groups[passage.near].append(passage)
    whole, repeats = len(compared), len(compared) - len(groups)
    if not repeats:
        return []
    exact = whole - len({passage.exact for passage in compared})
    most = sorted(groups.values(), key=len, reverse=True)
    return [
        Notice(
            "duplicates",
            f"{share(repeats, whole)} {noun_of(compared)} repeat another{_how(exact, repeats)}:"
            f" only {len(groups):,} are different",
            tuple(_describe_group(group) for group in most[:SHOWN] if len(group) > 1),
            "keep one of each: what stands ten times is learned ten times in every epoch, and there"
            " are fewer examples than they seem",
        )
    ]


def find_leakage(passages: Passages) -> list[Notice]:
    """Validation passages that are trained on too: validation would reward memory."""
    training, validation = comparable(passages.training), comparable(passages.validation)
    exact = {passage.exact: passage for passage in reversed(training)}
    near = {passage.near: passage for passage in reversed(training)}
    leaks = [passage for passage in validation if passage.near in near]
    if not leaks:
        return []
    word_for_word = sum(passage.exact in exact for passage in leaks)
    shown = [(leak, exact.get(leak.exact) or near[leak.near]) for leak in leaks[:SHOWN]]
    fix = "take them out of one of the two files"
    if passages.split:
        fix = "remove duplicates before the split, or give --validation rows of their own"
    return [
        Notice(
            "leakage",
            f"{share(len(leaks), len(validation))} validation {noun_of(validation)} are in the"
            f" training data too{_how(word_for_word, len(leaks))}: the validation loss will fall by"
            " memory alone, and early stopping will not see overfitting",
            tuple(
                f"validation {leak.place} = training {other.place}: {quoted(leak.text)}"
                for leak, other in shown
            ),
            fix,
        )
    ]


def comparable(passages: Sequence[Passage]) -> list[Passage]:
    """Those whose repetition says something: all rows, and the longer paragraphs."""
    return [p for p in passages if not p.is_paragraph or len(p.text) >= PARAGRAPH]


def noun_of(passages: Sequence[Passage]) -> str:
    """What they are called."""
    return "paragraphs" if passages[0].is_paragraph else "rows"


def _how(exact: int, all_of_them: int) -> str:
    if exact == all_of_them:
        return ", word for word"
    if exact == 0:
        return ", but for case and blanks"
    return f" ({exact:,} word for word, {all_of_them - exact:,} but for case and blanks)"


def _describe_group(group: list[Passage]) -> str:
    numbers = [passage.place.removeprefix("line ") for passage in group[:4]]
    listed = ", ".join(numbers) + (", …" if len(group) > len(numbers) else "")
    return f"{len(group):,} times, lines {listed}: {quoted(group[0].text)}"
