"""The record, the page and the pictures, rebuilt from whatever runs there are."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.merging.table import markdown
from bench.quality import frontier
from bench.quality.cells import MISSING, told, told_interval, told_share
from bench.quality.claims import CLAIMS, METRICS, TARGET_STEP, Judgement, judge
from bench.quality.finished import Finished, Results, by_configuration
from bench.quality.plan import CONFIGURATIONS, FORMATS, SEEDS, SHOTS, SIZES, Configuration
from bench.quality.plot import plot_methods
from bench.quality.tasks import TEST
from qlora.demo.experiment import PACKAGES
from qlora.provenance import provenance
from qlora_kernels.files import write_text

COMMAND = "python -m bench quality"
NAMES = {
    "right": "right",
    "loss": "loss",
    "python_right": "lines right",
    "python": "loss on Python",
    "english": "loss on English",
    "python_over_english": "loss on Python over English",
    "steps_to_target": "steps",
}


def write_pages(finished: Finished, folder: Path) -> Path:
    """Write record.json, README.md, methods.png and frontier.png; returns the page."""
    runs = finished.all()
    results = by_configuration(runs)
    rows = [runs[name] for name in sorted(runs)]
    record = {
        "command": COMMAND,
        **provenance(PACKAGES),
        "claims": [row for judgement in judge(usable(results)) for row in claim_rows(judgement)],
        "runs": rows,
    }
    write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")
    plot_methods(results, folder / "methods.png")
    frontier.plot(results, folder / "frontier.png")
    return write_text(folder / "README.md", page(results, record))


def page(results: Results, record: Mapping[str, Any]) -> str:
    """In Markdown."""
    results = usable(results)
    parts = [
        "# What formats and methods are worth: SmolLM2-135M-Instruct",
        _setup(results, record),
        "## What is claimed, and what came of it",
        claims_table(results),
        _verdicts(),
        "## Base formats, untrained",
        bases_table(results),
        f"Python: {TEST['python']} next lines of the standard library, right where the whole line"
        f" is. Intents: named behind {SHOTS} solved examples. Each seed draws other texts.",
        "## Intents",
        tuned_table(results, "intents"),
        "## The next line of Python",
        tuned_table(results, "python"),
        "## The frontier",
        frontier.table(results),
        "Over 16 bits but for QLoRA and DoRA. Forgotten: nats per token of plain English more than"
        " the untrained model in 16 bits. Peak: of the process above what it was before the model"
        " was loaded. Behind examples in the prompt an answer need not end by itself. A call:"
        " processor seconds for one prompt, nothing merged.",
        "![frontier](frontier.png)",
        "![right answers by method](methods.png)",
    ]
    return "\n\n".join(parts) + "\n"


def usable(results: Results) -> Results:
    """Without the runs that diverged, which have no figures; the table counts them."""
    return {n: [row for row in rows if "diverged" not in row] for n, rows in results.items()}


def claims_table(results: Results) -> str:
    """A line per claim and metric."""
    lines = [line for judgement in judge(results) for line in _claim_lines(judgement)]
    return markdown(["claim", "source", "by", "gain", "verdict"], lines)


def claim_rows(judgement: Judgement) -> Iterator[dict[str, Any]]:
    """For the record: a row per metric."""
    for metric, gain in judgement.gains.items():
        ends = (None, None, None) if gain is None else (gain.mean, gain.low, gain.high)
        yield {
            "claim": judgement.claim.text,
            "by": NAMES[metric],
            **dict(zip(("gain", "low", "high"), ends, strict=True)),
            "verdict": judgement.verdicts[metric],
        }


def _claim_lines(judgement: Judgement) -> Iterator[list[str]]:
    claim = judgement.claim
    for metric, gain in judgement.gains.items():
        shown = MISSING
        if gain is not None and "right" in metric:
            shown = f"{told_interval(gain.times(100), '+.1f')} points"
        elif gain is not None:
            shown = told_interval(gain, "+.1f" if metric == "steps_to_target" else "+.3f")
        verdict = judgement.verdicts[metric]
        yield [claim.text, claim.source, NAMES[metric], shown, verdict]


def bases_table(results: Results) -> str:
    """Perplexities and right answers by format."""
    head = ["base", "perplexity of English", "of Python", "lines right", "intents right", "seeds"]
    lines = []
    for name, title in FORMATS.items():
        rows = results[f"base-{name}"]
        if not rows:
            lines.append([title, *[MISSING] * 5])
            continue
        perplexities = [
            {kind: math.exp(row[kind]) for kind in ("english", "python")} for row in rows
        ]
        found = [told(perplexities, kind, ".2f") for kind in ("english", "python")]
        shares = [told_share(rows, metric) for metric in ("python_right", "intents_right")]
        lines.append([title, *found, *shares, str(len(rows))])
    return markdown(head, lines)


def tuned_table(results: Results, task: str) -> str:
    """Every configuration that is trained on the task."""
    head = ["", "trained", "right", "loss", "loss of the last steps", "forgotten", "seeds"]
    chosen = [c for c in CONFIGURATIONS.values() if c.task == task and c.kind == "trained"]
    return markdown(head, [_tuned_line(one, results) for one in chosen])


def _tuned_line(one: Configuration, results: Results) -> list[str]:
    rows = results[one.name]
    if not rows:
        return [one.title, *[MISSING] * 6]
    last = [{"last": sum(row["training"][-10:]) / 10} for row in rows]
    return [
        one.title,
        f"{frontier.trained_percent(rows, results):.3g} %",
        told_share(rows, "right"),
        told(rows, "loss"),
        told(last, "last"),
        told(frontier.forgotten(rows, results), "forgotten"),
        str(len(rows)),
    ]


def _setup(results: Results, record: Mapping[str, Any]) -> str:
    done = sum(map(len, results.values()))
    all_runs = len(CONFIGURATIONS) * len(SEEDS)
    sizes = "; ".join(
        f"{name} {size['steps']} steps of {size['batch_size']} rows of {size['sequence_length']}"
        f" tokens, {TEST[name]} held-out rows"
        for name, size in SIZES.items()
    )
    return (
        f"{done} of {all_runs} runs. Short runs: {sizes}. Figures are means over the seeds ± half"
        " the 95 % interval (Student's t). An answer is right if every token of it is, the end"
        " too; loss is nats per token of the answers. The model ships in 4 bits already (GGUF"
        " Q4_1), which flatters 4-bit bases, and is small: what fails here may hold for larger"
        f" ones. Made by `{COMMAND}` at commit {record['commit']}, {record['date']}; each run in"
        " `record.json` names the commit that it was measured at."
    )


def _verdicts() -> str:
    margins = "; ".join(
        f"{NAMES[metric]} {margin:g}"
        for metric, (_, margin) in METRICS.items()
        if margin and any(c.kind == "no worse" and metric in c.metrics for c in CLAIMS)
    )
    return (
        "gain: of the claim's subject over its rival in the same seeds, positive where it does"
        " better. held: the interval lies above 0, for `no worse` above minus the margin"
        f" ({margins}); refuted: below; undecided: it contains the border. steps: to the validation"
        f" loss that LoRA has after {TARGET_STEP} steps."
    )
