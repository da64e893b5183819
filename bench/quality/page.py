"""The record, the page and the pictures, rebuilt from whatever runs there are."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.quality import frontier
from bench.quality.cells import counted, ran_table, told, told_share
from bench.quality.claims import judge
from bench.quality.claims_table import claim_rows, claims_table, explained
from bench.quality.finished import Finished, Results, by_configuration
from bench.quality.plan import CONFIGURATIONS, FORMATS, SEEDS, SHOTS, SIZES, Configuration
from bench.quality.plot import plot_frontier, plot_methods
from bench.quality.tasks import TEST
from qlora.demo.experiment import PACKAGES
from qlora.provenance import provenance
from qlora_kernels.files import write_text

COMMAND = "python -m bench quality"
UNKNOWN = "unknown"


def write_pages(finished: Finished, folder: Path) -> Path:
    """Write record.json, README.md, methods.png and frontier.png; returns the page."""
    runs = finished.all()
    results = by_configuration(runs)
    rows = [runs[name] for name in sorted(runs)]
    record = {
        "command": COMMAND,
        **provenance(PACKAGES),
        "claims": [row for judgement in judge(usable(results)) for row in claim_rows(judgement)],
        "calls": finished.calls(),
        "runs": rows,
    }
    write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")
    plot_methods(usable(results), folder / "methods.png")
    plot_frontier(usable(results), folder / "frontier.png")
    return write_text(folder / "README.md", page(results, record))


def page(results: Results, record: Mapping[str, Any]) -> str:
    """In Markdown."""
    results = usable(results)
    parts = [
        "# What formats and methods are worth: SmolLM2-135M-Instruct",
        _setup(results, record),
        "## What is claimed, and what came of it",
        claims_table(results),
        explained(),
        "## Base formats, untrained",
        bases_table(results),
        f"Python: {TEST['python']} next lines of the standard library, right where the whole line"
        f" is. Intents: named behind {SHOTS} solved examples. Each seed draws other texts.",
        "## Intents",
        tuned_table(results, "intents"),
        "## The next line of Python",
        tuned_table(results, "python"),
        "## The frontier",
        frontier.table(results, (record["calls"] or {}).get("seconds", {})),
        "Over 16 bits but for QLoRA and DoRA. Forgotten: nats per token of plain English more than"
        " the untrained model in 16 bits. Peak: of the process above what it was before the model"
        " was loaded. Behind examples in the prompt an answer need not end by itself."
        f" {_calls(record['calls'])}",
        "![frontier](frontier.png)",
        "![right answers by method](methods.png)",
    ]
    return "\n\n".join(parts) + "\n"


def usable(results: Results) -> Results:
    """Without the runs that diverged, which have no figures; the table counts them."""
    return {n: [row for row in rows if "diverged" not in row] for n, rows in results.items()}


def bases_table(results: Results) -> str:
    """Perplexities and right answers by format."""
    head = ["base", "perplexity of English", "of Python", "lines right", "intents right", "seeds"]
    lines = []
    for name, title in FORMATS.items():
        rows = results[f"base-{name}"]
        if not rows:
            continue
        perplexities = [
            {kind: math.exp(row[kind]) for kind in ("english", "python")} for row in rows
        ]
        found = [told(perplexities, kind, ".2f") for kind in ("english", "python")]
        shares = [told_share(rows, metric) for metric in ("python_right", "intents_right")]
        lines.append([title, *found, *shares, counted(rows)])
    absent = [title for name, title in FORMATS.items() if not results[f"base-{name}"]]
    return ran_table(head, lines, absent)


def tuned_table(results: Results, task: str) -> str:
    """Every configuration that is trained on the task."""
    head = ["", "trained", "right", "loss", "loss of the last steps", "forgotten", "seeds"]
    chosen = [c for c in CONFIGURATIONS.values() if c.task == task and c.kind == "trained"]
    ran = [_tuned_line(one, results) for one in chosen if results[one.name]]
    return ran_table(head, ran, [one.title for one in chosen if not results[one.name]])


def _tuned_line(one: Configuration, results: Results) -> list[str]:
    rows = results[one.name]
    last = [{"last": sum(row["training"][-10:]) / 10} for row in rows]
    return [
        one.title,
        f"{frontier.trained_percent(rows, results):.3g} %",
        told_share(rows, "right"),
        told(rows, "loss"),
        told(last, "last"),
        told(frontier.forgotten(rows, results), "forgotten"),
        counted(rows),
    ]


def _setup(results: Results, record: Mapping[str, Any]) -> str:
    done = sum(map(len, results.values()))
    planned = len(CONFIGURATIONS) * len(SEEDS)
    complete = sum(len(rows) >= len(SEEDS) for rows in results.values())
    sizes = "; ".join(
        f"{name} {size['steps']} steps of {size['batch_size']} rows of {size['sequence_length']}"
        f" tokens, {TEST[name]} held-out rows"
        for name, size in SIZES.items()
    )
    return (
        f"{done} of {planned} runs; {complete} of {len(CONFIGURATIONS)} configurations have all"
        f" {len(SEEDS)} seeds. Short runs: {sizes}. Figures are means over the seeds ± half the"
        " 95 % interval (Student's t), which one seed does not have. An answer is right if every"
        " token of it is, the end too; loss is nats per token of the answers. The model ships in 4"
        " bits already (GGUF Q4_1), which flatters 4-bit bases, and is small: what fails here may"
        f" hold for larger ones. Page made by `{COMMAND}` at commit {record['commit']},"
        f" {record['date']}, of runs measured at {_commits(results)}."
    )


def _calls(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"What a call costs was not measured (`{COMMAND} --calls`)."
    rounds = len(found["seconds"][frontier.BASE])
    return (
        "A call: one forward over a question and its answer, nothing merged; median and p20-p80 of"
        f" {rounds} rounds in which all took turns with the untrained model,"
        f" {found['threads']} threads (`{found['command']}`, commit {found['commit']}). Full"
        " fine-tuning is the same model again: what its figure is from 1 is noise."
    )


def _commits(results: Results) -> str:
    """`commit 0123 (12 runs), commit 4567 (3 runs)`."""
    counts = Counter(row.get("commit") or UNKNOWN for rows in results.values() for row in rows)
    told = [f"commit {commit} ({n} run{'s' * (n > 1)})" for commit, n in counts.items()]
    return ", ".join(told) or "no commit"
