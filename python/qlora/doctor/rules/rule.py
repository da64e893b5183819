"""What a rule is made of: conditions on facts, and what to say and to do if they hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qlora.doctor.diagnosis import Cause
from qlora.doctor.facts import Fact, Facts

Verdict = Literal["holds", "fails", "undecided", "unknown"]

LAYERS_NAMED = 3  # in a sentence


@dataclass(frozen=True, slots=True)
class Condition:
    """`fact relation threshold`. Evidence in log-odds: + weight if it holds, - against if not.

    An interval that has the threshold inside decides nothing, an absent fact neither. says:
    evidence, when it holds; denies: why the cause is ruled out, when it fails. Both are format
    strings over value, low, high, detail and layers. reason: why the threshold is what it is.
    """

    fact: str
    relation: Literal[">", "<"]
    threshold: float
    weight: float
    against: float
    says: str
    denies: str
    reason: str

    def judge(self, facts: Facts) -> Verdict:
        """Whether it holds."""
        fact = facts.get(self.fact)
        if fact is None:
            return "unknown"
        ends = [fact.value if end is None else end for end in (fact.low, fact.high)]
        above = [end > self.threshold for end in ends]
        if above[0] != above[1]:
            return "undecided"
        return "holds" if above[0] == (self.relation == ">") else "fails"

    def sentence(self, template: str, facts: Facts) -> str:
        """The template with the fact's numbers."""
        fact = facts[self.fact]
        low = fact.value if fact.low is None else fact.low
        high = fact.value if fact.high is None else fact.high
        return template.format(
            value=fact.value, low=low, high=high, detail=fact.detail, layers=_top_layers(fact)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One cause. prior: log-odds before any evidence, for a run that somebody asks about.

    confused_with: causes that look the same on curves. fixes: the first whose numbers are known
    is said; they are format strings over facts and `suggestions`. next_steps: what to do if the
    fix did not help, each if the one before did not either, to the end.
    """

    cause: Cause
    title: str
    prior: float
    conditions: tuple[Condition, ...]
    confused_with: tuple[Cause, ...]
    fixes: tuple[str, ...]
    experiment: str
    next_steps: tuple[str, ...]

    def fix(self, numbers: Mapping[str, float]) -> str:
        """The first fix that can be said with these numbers."""
        for template in self.fixes:
            try:
                return template.format_map(numbers)
            except KeyError:
                continue
        raise AssertionError(f"{self.cause}: the last fix should need no numbers")


@dataclass(frozen=True, slots=True)
class Symptom:
    """What somebody sees first: any of its signs. rules: its causes, most decisive first.

    If it shows and no cause is certain, the likeliest is named all the same, with its confidence.
    """

    name: str
    question: str
    signs: tuple[Condition, ...]
    rules: tuple[Rule, ...]


def _top_layers(fact: Fact) -> str:
    top = sorted(fact.by_layer, key=lambda name: -fact.by_layer[name])[:LAYERS_NAMED]
    return ", ".join(top) or "all layers"
