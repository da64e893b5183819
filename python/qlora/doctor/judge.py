"""From facts to findings, by the rule table alone.

    score = prior + sum over conditions (weight if it holds, - against if it fails, else 0)
    coverage = weight of the conditions whose fact is known / weight of all
    confidence = sigmoid(score) (0.6 + 0.4 coverage), times 0.85 where nothing was measured

so that evidence for counts up, evidence against counts down, and what was not looked at lowers the
confidence without speaking for anything. Findings are causes with a confidence of at least 0.5;
where there is none and a symptom shows all the same, its likeliest cause, from 0.1 on.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from qlora.doctor.diagnosis import Cause, Diagnosis, Finding
from qlora.doctor.facts import KINDS, MEASURED_KINDS, Fact, Facts
from qlora.doctor.rules.derived import derive, suggestions
from qlora.doctor.rules.rule import Condition, Rule, Verdict
from qlora.doctor.rules.table import RULES, SYMPTOMS

LEAST_CONFIDENCE = 0.5  # of a finding: more likely than not
LEAST_SUSPICION = 0.1  # of a cause named because something is wrong and nothing explains it
UNOPENED = 0.85  # of the confidence is left where nothing but curves was seen
UNSEEN_SHARE = 0.4  # of the confidence that hangs on having looked


def judge(facts: Mapping[str, Fact], not_measured: Iterable[str] = ()) -> Diagnosis:
    """Findings by confidence; the same facts always give the same diagnosis."""
    known = derive(facts)
    opinions = {cause: Opinion(rule, known) for cause, rule in RULES.items()}
    held = [opinion for opinion in opinions.values() if opinion.confidence >= LEAST_CONFIDENCE]
    held.sort(key=lambda opinion: -opinion.confidence)
    held = held or _likeliest(opinions, known)
    findings = tuple(_finding(opinion, opinions) for opinion in held)
    cleared = [opinion for opinion in opinions.values() if opinion not in held]
    return Diagnosis(
        findings,
        dict(facts),
        tuple(f"{o.rule.cause}: {o.strongest_against}" for o in cleared if o.strongest_against),
        tuple(not_measured),
    )


def _likeliest(opinions: Mapping[Cause, "Opinion"], facts: Facts) -> list["Opinion"]:
    """The likeliest cause of the first symptom that shows, if one does."""
    for symptom in SYMPTOMS:
        if any(sign.judge(facts) == "holds" for sign in symptom.signs):
            candidates = [opinions[rule.cause] for rule in symptom.rules]
            best = max(candidates, key=lambda opinion: opinion.confidence)
            return [best] if best.confidence >= LEAST_SUSPICION else []
    return []


@dataclass(frozen=True, eq=False)
class Opinion:
    """What a rule makes of the facts."""

    rule: Rule
    facts: Facts

    @cached_property
    def verdicts(self) -> tuple[tuple[Condition, Verdict], ...]:
        """Each condition and whether it holds."""
        return tuple((condition, condition.judge(self.facts)) for condition in self.rule.conditions)

    @cached_property
    def contributions(self) -> tuple[tuple[float, str], ...]:
        """Log-odds of what is known and decided, with the sentence for each; largest first."""
        found = [
            (c.weight, c.sentence(c.says, self.facts))
            if verdict == "holds"
            else (-c.against, c.sentence(c.denies, self.facts))
            for c, verdict in self.verdicts
            if verdict in ("holds", "fails")
        ]
        return tuple(sorted(found, key=lambda pair: -abs(pair[0])))

    @property
    def coverage(self) -> float:
        """How much of what the rule asks is known."""
        weights = [max(abs(c.weight), abs(c.against)) for c, _ in self.verdicts]
        known = [
            weight
            for weight, (_, verdict) in zip(weights, self.verdicts, strict=True)
            if verdict != "unknown"
        ]
        return sum(known) / sum(weights)

    @property
    def score(self) -> float:
        """Log-odds."""
        return math.fsum([self.rule.prior, *(weight for weight, _ in self.contributions)])

    @cached_property
    def confidence(self) -> float:
        """In (0, 1)."""
        opened = 1.0 if MEASURED_KINDS.keys() & self.facts.keys() else UNOPENED
        return opened * (1 - UNSEEN_SHARE * (1 - self.coverage)) * _sigmoid(self.score)

    @property
    def evidence(self) -> tuple[str, ...]:
        """Sentences that speak for it."""
        return tuple(sentence for weight, sentence in self.contributions if weight > 0)

    @property
    def strongest_against(self) -> str | None:
        """The sentence that speaks most against it, unless one for it speaks louder."""
        if self.contributions and self.contributions[0][0] > 0:
            return None
        return next((sentence for weight, sentence in self.contributions if weight < 0), None)

    @cached_property
    def missing(self) -> str | None:
        """The fact that would settle it: the most telling unknown one, if it can still be true."""
        unknown = [c for c, verdict in self.verdicts if verdict == "unknown" and c.weight > 0]
        if not unknown:
            return None
        score = math.fsum([self.score, *(c.weight for c in unknown)])
        if _sigmoid(score) < LEAST_CONFIDENCE:
            return None
        return max(unknown, key=lambda c: max(c.weight, c.against)).fact


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def _finding(opinion: Opinion, opinions: Mapping[Cause, Opinion]) -> Finding:
    """A finding; other causes of the same look are ruled out, or need a fact that is missing."""
    rule = opinion.rule
    others = [opinions[cause] for cause in rule.confused_with]
    others = [other for other in others if other.confidence < LEAST_CONFIDENCE]
    ruled_out = tuple(
        (other.rule.cause, other.strongest_against)
        for other in others
        if other.missing is None and other.strongest_against is not None
    )
    unsettled = tuple(
        f"{other.rule.cause}: {other.missing} would tell ({KINDS[other.missing].meaning})"
        for other in (opinion, *others)
        if other.missing is not None
    )
    return Finding(
        rule.cause,
        opinion.confidence,
        rule.title,
        opinion.evidence,
        ruled_out,
        rule.fix(suggestions(opinion.facts)),
        rule.experiment,
        rule.next_steps,
        unsettled,
    )
