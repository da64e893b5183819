"""The record as a page for people: three tables, every figure computed from the record's rows.

A figure is the mean over the seeds, +- the sample standard deviation. "kept" is a merge's accuracy
divided by that of the task's own adapter of the same seed.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.merging.mixes import MERGED_SKILLS, MERGED_STYLES, SUBTRACTED_SKILLS, Mix
from bench.merging.tasks import SKILLS, STYLES

Rows = Sequence[Mapping[str, Any]]


def page(record: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    return (
        "\n\n".join(
            [
                "# What merging keeps: two skills and two styles on SmolLM2-135M-Instruct, NF4",
                _setup(record),
                "## Two skills in one adapter",
                skills_table(record["skills"], MERGED_SKILLS),
                _majority(record),
                "## A skill taken out again",
                "From the adapter trained on both, the adapter of one task is subtracted.",
                skills_table(record["skills"], {"both": MERGED_SKILLS["both"]} | SUBTRACTED_SKILLS),
                *(subtraction_verdict(record["skills"], key) for key in SUBTRACTED_SKILLS),
                "## Adapters that contradict each other",
                "Both define words; one stops behind the definition, one adds examples of use.",
                styles_table(record["styles"]),
                overlap(record["styles"]),
            ]
        )
        + "\n"
    )


def skills_table(rows: Rows, mixes: Mapping[str, Mix]) -> str:
    """Accuracy and the share kept on each task, and the loss per token of plain text."""
    head = [f"{task} {what}" for task in SKILLS for what in ("right", "kept")]
    lines = []
    for key, mix in mixes.items():
        cells = []
        for task in SKILLS:
            cells.append(percent([row["accuracy"][task] for row in _of(rows, key)]))
            cells.append(percent(kept(rows, key, task)) if mix.parents else "-")
        cells.append(number([text_loss(row) for row in _of(rows, key)]))
        lines.append([mix.title, *cells])
    return markdown(["", *head, "loss on plain text"], lines)


def styles_table(rows: Rows) -> str:
    """How long answers are, how surely they stop, and how likely each style's true answers are."""
    head = ["", "tokens written", "p(end) behind the definition"]
    lines = []
    for key, mix in MERGED_STYLES.items():
        found = _of(rows, key)
        tokens, stops = ([row[name] for row in found] for name in ("tokens", "stops"))
        losses = (number([row["loss"][style] for row in found]) for style in STYLES)
        lines.append([mix.title, number(tokens), percent(stops), *losses])
    return markdown([*head, *(f"loss on {style} answers" for style in STYLES)], lines)


def kept(rows: Rows, key: str, task: str) -> list[float]:
    """accuracy(merge) / accuracy(the task's own adapter), seed by seed.

    Nothing where an adapter never learned its task, as after a trial of a few steps.
    """
    alone = {row["seed"]: row["accuracy"][task] for row in _of(rows, task)}
    if 0.0 in alone.values():
        return []
    return [row["accuracy"][task] / alone[row["seed"]] for row in _of(rows, key)]


def overlap(rows: Rows) -> str:
    """How alike the two averaged updates are, over all entries of all layers."""
    merges = [row["merge"] for row in _of(rows, "average")]
    cosine = number([merge["cosine"][0][1] for merge in merges])
    conflict = percent([merge["sign_conflict"] for merge in merges])
    return f"The two updates have a cosine of {cosine} and opposite signs in {conflict} of entries."


def text_loss(row: Mapping[str, Any]) -> float:
    """Nats per token of plain text; perplexities of broken models have no useful mean."""
    return math.log(row["perplexity"])


def subtraction_verdict(rows: Rows, key: str) -> str:
    """What a subtraction did to the removed skill, to the other one and to plain text."""
    [removed] = [task for task in SKILLS if key.endswith(task)]
    [other] = [task for task in SKILLS if task != removed]
    before, after = _of(rows, "both"), _of(rows, key)

    def change(task: str) -> str:
        pairs = zip(before, after, strict=True)
        return points([a["accuracy"][task] - b["accuracy"][task] for b, a in pairs])

    pairs = zip(before, after, strict=True)
    text = _spread([text_loss(a) - text_loss(b) for b, a in pairs], "+.2f")
    return (
        f"- {SUBTRACTED_SKILLS[key].title}: {removed} (removed) {change(removed)} points, {other}"
        f" {change(other)} points, loss on plain text {text}."
    )


def percent(values: Sequence[float]) -> str:
    """`91.2 ± 0.8 %`, and `-` of nothing."""
    return f"{_spread([100 * value for value in values], '.1f')} %" if values else "-"


def points(values: Sequence[float]) -> str:
    """`-12.3 ± 0.8`, of shares."""
    return _spread([100 * value for value in values], "+.1f")


def number(values: Sequence[float]) -> str:
    """`12.34 ± 0.56`."""
    return _spread(values, ".2f")


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table: names on the left, figures on the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _spread(values: Sequence[float], form: str) -> str:
    mean = format(statistics.mean(values), form)
    spread = f" ± {statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else ""
    return mean + spread


def _of(rows: Rows, key: str) -> Rows:
    return sorted((row for row in rows if row["mix"] == key), key=lambda row: row["seed"])


def _setup(record: Mapping[str, Any]) -> str:
    seeds = len({row["seed"] for row in record["trained"]})
    tasks = {row["task"]: f"{row['task']} {row['steps']} steps" for row in record["trained"]}
    return (
        f"{seeds} seeds; rank 16 on all linear layers; {', '.join(tasks.values())}."
        f" Figures are means over the seeds ± standard deviation. An answer is right if every token"
        f" of it is, the end too; {_listed(record['test_rows'])} held-out rows. What is kept is"
        " a share of what the task's own adapter of the same seed gets right."
        f" From `record.json` (commit {record['commit']}, {record['date']}) by"
        " `python -m bench merging`; each row there names the commit that it was measured at."
    )


def _majority(record: Mapping[str, Any]) -> str:
    shares = (f"{task} {record['majority'][task]:.1%}" for task in SKILLS)
    return f"Always the most frequent answer is right in: {', '.join(shares)}."


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
