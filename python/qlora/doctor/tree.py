"""The page on diagnosis, from the rule table: python -m qlora.doctor.tree > docs/diagnosis.md"""

from collections.abc import Iterator

from qlora.doctor.facts import KINDS
from qlora.doctor.judge import LEAST_CONFIDENCE, LEAST_SUSPICION, UNOPENED, UNSEEN_SHARE
from qlora.doctor.rules.rule import Condition, Rule, Symptom
from qlora.doctor.rules.table import SYMPTOMS

INTRODUCTION = f"""\
# Why a fine-tune fails

This page is printed from the table of rules that `qlora doctor` reasons from
(`python -m qlora.doctor.tree`); a test keeps the two in step.

```sh
qlora doctor runs/first                           # a run folder: curves, then the model itself
qlora doctor runs/first --recent tickets.jsonl    # and whether newer data still looks the same
qlora doctor outputs/checkpoint-500               # any trainer_state.json, TensorBoard folder, CSV
qlora doctor env                                  # backends, and whether they compute right
```

Every rule has conditions on facts. One that holds adds its weight to the score of the cause, one
that fails takes away what is written behind it, one whose threshold lies inside the fact's 95 %
interval does neither. Scores are log-odds:

    confidence = sigmoid(prior + weights) x ({1 - UNSEEN_SHARE:.1f} + {UNSEEN_SHARE:.1f} coverage)

where coverage is the share of conditions, by weight, whose fact is known; times {UNOPENED} where
nothing but curves was seen. So a fact that nobody measured never speaks for a cause, and curves
alone never sound as sure as a measurement. Findings have a confidence of {LEAST_CONFIDENCE} or
more. Where nothing reaches that and a run is plainly sick (a sign of a symptom below), the
likeliest cause is named with the confidence that it has, from {LEAST_SUSPICION} on. A run without
findings is called healthy, with what was looked at.

Weights were chosen by what a fact can prove, thresholds by the reasons that stand beside them, and
looked over on runs of the benchmark of faults with seeds that its figures do not use.

## The tree"""

FACTS = """\
## Facts

Losses are means of -log p per supervised token, in nats. Facts of the curves need nothing but a
record of the run; the others need its model and data.

| fact | unit | what it says | how |
|---|---|---|---|"""


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION, "", *_overview(), ""]
    for number, symptom in enumerate(SYMPTOMS, start=1):
        lines += [f"### {number}. {symptom.question}", "", *_diagram(symptom), ""]
        for rule in symptom.rules:
            lines += [*_section(rule), ""]
    lines += [FACTS, *_fact_rows()]
    return "\n".join(lines) + "\n"


def _overview() -> Iterator[str]:
    """Symptom by symptom, in the order in which to ask."""
    yield "```mermaid"
    yield "flowchart TD"
    for number, symptom in enumerate(SYMPTOMS, start=1):
        causes = "<br>".join(rule.cause for rule in symptom.rules)
        yield f'  s{number}{{"{symptom.question}"}} -->|yes| c{number}["{causes}"]'
        following = f"s{number + 1}" if number < len(SYMPTOMS) else 'healthy(["healthy"])'
        yield f"  s{number} -->|no| {following}"
    yield "```"


def _diagram(symptom: Symptom) -> Iterator[str]:
    """Each cause by its most telling condition, then its fix and all that follows."""
    yield "```mermaid"
    yield "flowchart TD"
    for number, rule in enumerate(symptom.rules):
        question, last = f"q{number}", f"f{number}"
        yield f'  {question}{{"{_short(rule.conditions[0])}?"}} -->|yes| {last}["{_box(rule)}"]'
        for place, step in enumerate(rule.next_steps):
            node = f"n{number}_{place}"
            yield f'  {last} -->|not better| {node}["{_wrapped(step)}"]'
            last = node
        following = f"q{number + 1}" if number + 1 < len(symptom.rules) else "onward"
        yield f"  {question} -->|no| {following}"
    yield '  onward(["next symptom, or healthy"])'
    yield "```"


def _section(rule: Rule) -> Iterator[str]:
    yield f"#### {rule.cause}"
    yield ""
    yield f"{rule.title}. Prior {rule.prior:+g}; looks like {', '.join(rule.confused_with)}."
    yield ""
    yield "| if | holds | fails | why there |"
    yield "|---|--:|--:|---|"
    for c in rule.conditions:
        yield f"| `{_short(c)}` | {c.weight:+g} | {0 - c.against:+g} | {c.reason} |"
    yield ""
    yield (
        f"- fix: `{rule.fixes[-1]}`"
        if rule.fixes[-1].startswith("--")
        else f"- fix: {rule.fixes[-1]}"
    )
    yield f"- experiment: {rule.experiment}"
    for depth, step in enumerate(rule.next_steps):
        yield f"{'  ' * depth}- not better: {step}"


def _fact_rows() -> Iterator[str]:
    for name, kind in KINDS.items():
        formula = kind.formula.replace("|", "\\|")
        yield f"| `{name}` | {kind.unit} | {kind.meaning} | {formula} |"


def _short(condition: Condition) -> str:
    return f"{condition.fact} {condition.relation} {condition.threshold:g}"


def _box(rule: Rule) -> str:
    return f"<b>{rule.cause}</b><br>{_wrapped(rule.fixes[-1])}"


def _wrapped(text: str) -> str:
    """Mermaid reads quotes and brackets itself."""
    return text.replace('"', "'")


if __name__ == "__main__":
    print(page(), end="")
