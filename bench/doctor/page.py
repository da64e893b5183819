"""The record as a page for people; every figure is computed from the record's runs."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.doctor.matrix import HEALTHY, Matrix, first_named, fully_known, harm, matrix_of, unique

Runs = Sequence[Mapping[str, Any]]
FIRST_DEVELOPMENT_SEED = 100
FIRST_SEEDS = {0, 1, 2}  # whose results changed the doctor


def page(record: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    runs = record["runs"]
    ours = fully_known(runs)
    parts = [
        "# Faults put into training runs on purpose, and what `qlora doctor` names",
        _origin(record),
        verdict(matrix_of(ours)),
        confusion(matrix_of(ours)),
        "![The matrix, and the validation losses of one seed](matrix.png)",
        "## The experiments, and what each fault costs",
        "Loss and exactly right answers on rows that the run never saw, by what it ended with;"
        " means over the seeds. The healthy twin is the same task and seed without the fault.",
        experiments(ours),
    ]
    if curves_only := [run for run in runs if run["trainer"] != "qlora"]:
        parts += [
            "## From a trainer_state.json alone",
            "The same faults in runs of Hugging Face's Trainer with peft: nothing but the curves"
            " that it wrote, no model, no data. Confidence is that of the first finding, its mean;"
            " beside it that of the same experiment where the doctor could measure.",
            trainer_states(curves_only, ours),
        ]
    return "\n\n".join(parts) + "\n"


def verdict(matrix: Matrix) -> str:
    """One sentence."""
    said = "none of the" if not matrix.accused else f"{matrix.accused} of the"
    share = f" ({matrix.right / matrix.faults:.0%})" if matrix.faults else ""
    return (
        f"**{matrix.right} of {matrix.faults} injected faults named first{share};"
        f" {said} {matrix.healthy} healthy runs accused.**"
    )


def confusion(matrix: Matrix) -> str:
    """Injected downwards, named first across; columns that nobody was named in are left out."""
    named = [
        name for name in matrix.named if any((c, name) in matrix.counts for c in matrix.injected)
    ]
    causes = [cause for cause in matrix.injected if cause != HEALTHY]
    rows = [*causes, *([HEALTHY] if HEALTHY in matrix.injected else [])]
    lines = [[cause, *(str(matrix.counts.get((cause, n), "")) for n in named)] for cause in rows]
    return markdown(["injected \\ named first", *named], lines)


def experiments(runs: Runs) -> str:
    """One line each: what was done, what it cost, what was named."""
    lines = []
    for name in unique(run["experiment"] for run in runs):
        some = [run for run in runs if run["experiment"] == name]
        twins = [twin for run in some if (twin := harm(run, runs))]
        lines.append(
            [
                f"{name}: {some[0]['title']}",
                some[0]["cause"] or HEALTHY,
                _exam([run["exam"] for run in some]),
                _exam(twins),
                _named(some),
            ]
        )
    head = ["experiment", "cause", "loss, right", "its healthy twin", "named first"]
    return markdown(head, lines)


def trainer_states(runs: Runs, ours: Runs) -> str:
    """One line per experiment that Hugging Face's Trainer ran."""
    lines = []
    for name in unique(run["experiment"] for run in runs):
        some = [run for run in runs if run["experiment"] == name]
        measured = [run for run in ours if run["experiment"] == name.removeprefix("hf-")]
        lines.append(
            [
                f"{name}: {some[0]['title']}",
                some[0]["cause"] or HEALTHY,
                _named(some),
                _confidence(some),
                _confidence(measured),
            ]
        )
    head = ["experiment", "cause", "named first", "confidence", "with measurements"]
    return markdown(head, lines)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _exam(results: Sequence[Mapping[str, float]]) -> str:
    if not results:
        return "-"
    loss, right = (statistics.mean(r[key] for r in results) for key in ("loss", "accuracy"))
    return f"{loss:.2f}, {right:.0%}"


def _named(runs: Runs) -> str:
    names = [first_named(run) for run in runs]
    return ", ".join(f"{names.count(name)} x {name}" for name in unique(names))


def _confidence(runs: Runs) -> str:
    found = [run["findings"][0]["confidence"] for run in runs if run["findings"]]
    return f"{statistics.mean(found):.2f}" if found else "-"


def _origin(record: Mapping[str, Any]) -> str:
    runs, machine = record["runs"], record["machine"]
    seeds = ", ".join(str(seed) for seed in unique(run["seed"] for run in runs))
    took = f" in {record['seconds'] / 60:.0f} minutes" if record["seconds"] else ""
    again = record.get("judged")
    judged = f"; judged again at commit {again['commit']}, {again['date']}" if again else ""
    return (
        f"{len(runs)} runs (seeds {seeds}){took} on {machine['cpu']}, commit {record['commit']},"
        f" {record['date']}{judged}. The model is the test fixture (0.9 million parameters) in NF4,"
        f" its tasks are made from the seed. {_tuned(runs)} From `record.json` by"
        " `python -m bench doctor`."
    )


def _tuned(runs: Runs) -> str:
    if all(run["seed"] >= FIRST_DEVELOPMENT_SEED for run in runs):
        return "The doctor's thresholds were set on these runs."
    if {run["seed"] for run in runs} <= FIRST_SEEDS:
        return (
            "Nothing had been tuned on these when they ran. Their jumps on ordinary rows, taken for"
            " bad data, are why the doctor now looks at the rows of a jump; what it names since is"
            " reported on [other seeds](../README.md)."
        )
    return (
        "The doctor's thresholds were set on other seeds, those of"
        " [development](development/README.md); nobody tuned anything on these."
    )
