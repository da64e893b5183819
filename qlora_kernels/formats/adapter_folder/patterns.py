"""peft's rank and alpha patterns, matched in polynomial time whatever they say.

peft takes a layer's value from the first pattern with `re.match(rf"(.*\\.)?({pattern})$", name)`: a
regular expression that matches the name from its start, or from after a dot, to its end. Python's
matcher backtracks: `(a+)+$` keeps it busy for years, and a pattern comes with a file that somebody
else wrote. Here Python parses the pattern, and sets of positions are carried through the parsed
tree instead: all ends that a part can reach from one start are computed once.
"""

import re
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qlora_kernels.errors import InputError

MAX_PATTERN, MAX_COUNT = 1000, 100  # characters; a number of repetitions that is written out

_PLACES = ("AT_BEGINNING", "AT_END")
_SHORTHANDS = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
}

Match = Callable[[str], bool]


def first_match(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the name; InputError for a bad one."""
    for pattern, value in patterns.items():
        if matches(pattern, name):
            return value
    return default


def matches(pattern: str, name: str) -> bool:
    """Whether peft would give the layer of that name the pattern's value."""
    starts = [0, *(i + 1 for i, character in enumerate(name) if character == ".")]
    if re.fullmatch(r"[\w.-]*", pattern):  # as most are: nothing in it can repeat
        return any(re.fullmatch(pattern, name[start:]) for start in starts)
    walk = _Walk(name)
    return len(name) in walk.sequence(parse(pattern), starts)


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


class _Walk:
    """One name on its way through a parsed pattern: positions in, positions out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._ends: dict[tuple[int, int], set[int]] = {}

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
