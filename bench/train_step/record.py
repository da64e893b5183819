"""The record of a comparison, and the table and the picture that are made of it alone."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.merging.table import markdown
from bench.train_step.agreement import Agreement
from bench.train_step.lines import GUIDE
from bench.train_step.measure import Measured, Rounds, basis_of, times_slower
from bench.train_step.problem import SMOLLM2, Problem
from qlora.demo.fetch import FOLDER
from qlora.models import compute_dtype
from qlora.provenance import provenance

PACKAGES = ("qlora_kernels", "torch", "transformers", "peft", "bitsandbytes")
HEAD = (
    "", "attention", "allocator", "tokens/s", "rounds", "its step / ours", "peak MiB", "J/token",
    "trained", "last loss",
)  # fmt: skip
ALLOCATORS = {"default": "glibc's", "raised": "raised"}
OWN_DEFAULT = ", its own default attention"
NOT_READABLE = "not readable"
REFUSED = "refused"
MIB = 2**20


def dtype_name() -> str:
    return str(compute_dtype()).removeprefix("torch.")


def record_of(
    problem: Problem, rounds: Rounds, found: Mapping[str, Measured], agreed: Sequence[Agreement]
) -> dict[str, Any]:
    """Everything, ready for JSON; a line that disagrees with its twin has no speed."""
    refused = {agreement.name for agreement in agreed if not agreement.holds}
    agreeing = {name: measured for name, measured in found.items() if name not in refused}
    return {
        "command": command(problem, rounds),
        **provenance(PACKAGES),
        "problem": {**asdict(problem), "title": problem.title},
        "dtype": dtype_name(),
        **asdict(rounds),
        "rows": [
            {"line": name, **_row(measured, name in refused, agreeing, problem)}
            for name, measured in found.items()
        ],
        "agreements": [{**asdict(a), "holds": a.holds} for a in agreed],
    }


def command(problem: Problem, rounds: Rounds) -> str:
    """What measures the same again; a folder of a model is told by its name only if it is ours."""
    default = Problem(SMOLLM2)
    model = problem.model if problem.model != str(FOLDER) else SMOLLM2
    words = ["python -m bench train-step", f"--model {model}"]
    if not problem.is_folder:
        words.append(f"--layers {problem.layers}")
    for name in ("rows", "tokens", "rank", "seed", "attention"):
        if (value := getattr(problem, name)) != getattr(default, name):
            words.append(f"--{name} {value}")
    words += ["--checkpointing"] * problem.checkpointing
    return " ".join([*words, f"--rounds {rounds.rounds} --steps {rounds.steps}"])


def _row(
    m: Measured, refused: bool, agreeing: Mapping[str, Measured], problem: Problem
) -> dict[str, Any]:
    told: dict[str, Any] = {
        **asdict(m.line),
        "title": m.line.way.title,
        "attention": m.line.problem(problem).attention,
        "losses": m.losses,
        "trained": m.trained,
        "refused": refused,
    }
    if refused:
        return told
    basis = basis_of(m.line, agreeing)
    return {
        **told,
        "seconds": m.seconds,
        "cpu_seconds": m.cpu_seconds,
        "tokens_per_second": statistics.median(m.rates),
        "slowest": min(m.rates),
        "fastest": max(m.rates),
        "times_slower_than_ours": times_slower(m, basis) if basis else None,
        "peak_bytes": m.peak_bytes,
        "joules_per_token": m.joules_per_token,
    }


def table(record: Mapping[str, Any]) -> str:
    """Markdown, one line of the comparison each."""
    return markdown(HEAD, [_cells(row) for row in record["rows"]])


def _cells(line: Mapping[str, Any]) -> list[str]:
    own = OWN_DEFAULT if line["own_default"] and line["method"] != GUIDE else ""
    first = [line["title"] + own, line["attention"], ALLOCATORS[line["allocator"]]]
    last = [f"{line['trained']:,}", f"{line['losses'][-1]:.4f}"]
    if line["refused"]:
        return [*first, *[REFUSED] * 5, *last]
    energy, times = line["joules_per_token"], line["times_slower_than_ours"]
    return [
        *first,
        f"{line['tokens_per_second']:.1f}",
        f"{line['slowest']:.1f} to {line['fastest']:.1f}",
        "-" if times is None else f"{times:.2f}",
        f"{line['peak_bytes'] / MIB:.0f}",
        NOT_READABLE if energy is None else f"{energy:.3f}",
        *last,
    ]


def page(record: Mapping[str, Any]) -> str:
    """A page with its heading, for the folder of results."""
    judged = (Agreement(**_fields(agreement)) for agreement in record["agreements"])
    parts = [
        f"# Training steps: {record['problem']['title']}",
        _setup(record),
        table(record),
        "\n".join(f"- {agreement.describe()}" for agreement in judged),
        f"From commit {record['commit']}, {record['date']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _setup(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    return (
        f"{record['dtype']}, threads: {record['threads']}, {machine.get('gpu', machine['cpu'])};"
        f" {record['rounds']} rounds of {record['steps']} steps of each line in turn, each line in"
        " a process of its own, those of one allocator in the same rounds. tokens/s is the median"
        " over the rounds, beside it the slowest and the fastest round. Losses are compared with"
        " those of the peer that does the same, step by step, and a line that disagrees has no"
        " speed. raised: with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ so high that"
        " memory is kept. Peak: of the process (on a GPU of its allocator) while it trains."
    )


def _fields(agreement: Mapping[str, Any]) -> dict[str, Any]:
    return {name: agreement[name] for name in ("name", "twin", "off", "bound")}


def plot(record: Mapping[str, Any], path: Path) -> Path:
    """Losses of all lines over their steps, and beside them the speeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    lines = record["rows"]
    for place, line in enumerate(lines):
        # Equal curves lie on each other: later ones are thinner, so that all are seen.
        width = 1 + 6 * (1 - place / len(lines))
        steps = range(1, len(line["losses"]) + 1)
        curves.plot(steps, line["losses"], label=line["line"], linewidth=width, alpha=0.7)
    curves.set(xlabel="step", ylabel="loss", title=record["problem"]["title"])
    curves.legend(fontsize="small")
    timed = [line for line in lines if not line["refused"]]
    rates = [line["tokens_per_second"] for line in timed]
    below = [line["tokens_per_second"] - line["slowest"] for line in timed]
    above = [line["fastest"] - line["tokens_per_second"] for line in timed]
    bars.barh(range(len(timed)), rates, xerr=[below, above])
    bars.set_yticks(range(len(timed)), [line["line"] for line in timed])
    bars.invert_yaxis()
    bars.set(xlabel="tokens/s, median of the rounds; bars: slowest to fastest")
    figure.savefig(path, dpi=110)
    return path
