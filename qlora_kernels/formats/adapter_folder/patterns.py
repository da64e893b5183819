"""peft's rank and alpha patterns, matched in polynomial time whatever they say.

peft takes a layer's value from the first pattern with `re.match(rf"(.*\\.)?({pattern})$", name)`: a
regular expression that matches the name from its start, or from after a dot, to its end. Python's
matcher backtracks: `(a+)+$` keeps it busy for years, and a pattern comes with a file that somebody
else wrote. So Python's matcher gets names and patterns with at most one choice in them. For the
others sets of positions are carried through the parsed tree: all ends that a part can reach from
one start are computed once, and there is a limit on how many.
"""

import re
import re._parser as parser  # type: ignore[import-not-found]
import string
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from qlora_kernels.errors import InputError

MAX_PATTERN, MAX_COUNT = 1000, 100  # characters; a number of repetitions that is written out
MAX_CHOICES = 1  # of a pattern that Python may match: the square of a name's length in steps
MAX_STEPS = 5_000  # of matching one name; an honest pattern takes hundreds
# Patterns times layers of one folder: plain names, with one choice, with more.
MAX_MATCHES, MAX_CHOICE_MATCHES, MAX_HARD_MATCHES = 4_000_000, 50_000, 2_000

_PLAIN = set(string.ascii_letters + string.digits + "_.-")
_PLACES = ("AT_BEGINNING", "AT_END")
_SHORTHANDS = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
}


def first_match(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the name; InputError for a bad one."""
    for pattern, value in patterns.items():
        if matches(pattern, name):
            return value
    return default


def check_effort(patterns: Iterable[str], num_layers: int) -> None:
    """Refuse so many patterns for so many layers that matching them takes more than seconds."""
    patterns = list(patterns)
    choices = [0 if _is_plain(pattern) else 1 + _choices(parse(pattern)) for pattern in patterns]
    for least, most in (
        (0, MAX_MATCHES),
        (1, MAX_CHOICE_MATCHES),
        (MAX_CHOICES + 2, MAX_HARD_MATCHES),
    ):
        count = sum(c >= least for c in choices)
        if count * num_layers > most:
            raise InputError(
                f"adapter: patterns times layers should be at most {most}, were {count} (like "
                f"{patterns[choices.index(max(choices))][:60]!r}) times {num_layers}"
            )


def matches(pattern: str, name: str) -> bool:
    """Whether peft would give the layer of that name the pattern's value."""
    starts = [0, *(i + 1 for i, character in enumerate(name) if character == ".")]
    if _is_plain(pattern):
        starts = [start for start in starts if len(name) - start == len(pattern)]
        return any(_compiled(pattern).fullmatch(name, start) for start in starts)
    tree = parse(pattern)
    if _choices(tree) <= MAX_CHOICES:
        # From the start of a string of its own, so that ^ means what it means in peft.
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    return len(name) in _Walk(name).sequence(tree, starts)


@lru_cache(maxsize=4096)
def parse(pattern: str) -> Any:
    """Python's own parse of the pattern; InputError for what `matches` does not do."""
    try:
        tree = parser.parse(pattern) if len(pattern) <= MAX_PATTERN else None
        if tree is not None and not tree.state.flags & ~re.UNICODE:
            _Walk("").check(tree)
            return tree
    except (re.error, OverflowError, RecursionError):
        pass
    raise InputError(
        "adapter: a pattern should be a regular expression of literals, classes, groups, | and "
        f"repetitions (up to {MAX_COUNT}), was {pattern[:60]!r}"
    )


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _is_plain(pattern: str) -> bool:
    """A name, as most patterns are: the dot stands for one character, nothing else for another."""
    return not set(pattern) - _PLAIN


def _choices(tree: Any) -> int:
    """How often a matcher must choose; inside a repetition it is without end."""
    count = 0
    for operation, argument in tree:
        if str(operation).endswith("REPEAT"):
            low, high, body = argument
            count += 1 + (low != 1 or high != 1) * 1000 * (_choices(body) + len(body) - 1)
        elif str(operation) == "SUBPATTERN":
            count += _choices(argument[3])
        elif str(operation) == "BRANCH":
            count += 1 + sum(_choices(branch) for branch in argument[1])
    return count


class _Walk:
    """One name on its way through a parsed pattern: positions in, positions out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._ends: dict[tuple[int, int], set[int]] = {}
        self._steps = 0

    def check(self, tree: Any) -> None:
        """Refuse operations without a method here, wherever they stand."""
        for operation, argument in tree:
            if not hasattr(self, f"_{str(operation).lower()}"):
                raise re.error(str(operation))
            if str(operation) == "AT" and str(argument) not in _PLACES:
                raise re.error(str(argument))
            if str(operation).endswith("REPEAT"):
                low, high, body = argument
                if max(low, 0 if high == parser.MAXREPEAT else high) > MAX_COUNT:
                    raise re.error("count")
                self.check(body)
            elif str(operation) == "SUBPATTERN":
                if argument[1] or argument[2]:
                    raise re.error("flags")
                self.check(argument[3])
            elif str(operation) == "BRANCH":
                for branch in argument[1]:
                    self.check(branch)

    def sequence(self, tree: Any, starts: Iterable[int]) -> set[int]:
        """Where the whole sequence can end."""
        positions = set(starts)
        for node in tree:
            self._steps += len(positions)
            if self._steps > MAX_STEPS:
                raise InputError(f"adapter: a pattern should match {self.name[:60]!r} in few steps")
            positions = set().union(*(self._from(node, start) for start in positions))
        return positions

    def _from(self, node: Any, start: int) -> set[int]:
        key = (id(node), start)
        if key not in self._ends:
            operation, argument = node
            self._ends[key] = getattr(self, f"_{str(operation).lower()}")(argument, start)
        return self._ends[key]

    def _one(self, start: int, fits: Callable[[str], bool]) -> set[int]:
        inside = start < len(self.name)
        return {start + 1} if inside and fits(self.name[start]) else set()

    def _literal(self, code: int, start: int) -> set[int]:
        return self._one(start, lambda character: ord(character) == code)

    def _not_literal(self, code: int, start: int) -> set[int]:
        return self._one(start, lambda character: ord(character) != code)

    def _any(self, _: None, start: int) -> set[int]:
        return self._one(start, lambda character: character != "\n")

    def _in(self, items: Any, start: int) -> set[int]:
        return self._one(start, lambda character: _in_class(items, character))

    def _at(self, place: object, start: int) -> set[int]:
        wanted = {"AT_BEGINNING": 0, "AT_END": len(self.name)}[str(place)]
        return {start} if start == wanted else set()

    def _branch(self, argument: Any, start: int) -> set[int]:
        return set().union(*(self.sequence(branch, [start]) for branch in argument[1]))

    def _subpattern(self, argument: Any, start: int) -> set[int]:
        return self.sequence(argument[3], [start])

    def _max_repeat(self, argument: Any, start: int) -> set[int]:
        low, high, body = argument
        current = {start}
        for _ in range(low):
            current = self.sequence(body, current)
        reached = set(current)
        rounds = len(self.name) + 1 if high == parser.MAXREPEAT else high - low
        for _ in range(rounds):
            current = self.sequence(body, current) - reached
            if not current:
                break
            reached |= current
        return reached

    _min_repeat = _max_repeat  # greedy or not, the whole name matches or does not


def _in_class(items: Any, character: str) -> bool:
    """Whether `[...]` holds the character."""
    negated = False
    found = False
    for kind, value in items:
        if str(kind) == "NEGATE":
            negated = True
        elif str(kind) == "LITERAL":
            found |= ord(character) == value
        elif str(kind) == "RANGE":
            found |= value[0] <= ord(character) <= value[1]
        else:
            found |= re.match(_SHORTHANDS[str(value)], character) is not None
    return found != negated
