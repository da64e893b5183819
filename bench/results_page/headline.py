"""README's first table of figures: one line per committed record that has something to say."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from bench.doctor.matrix import fully_known, matrix_of
from bench.kernels.check import PASSED
from bench.merging.table import markdown
from bench.results_page.kernels import Records, grouped
from bench.results_page.page import commands
from bench.results_page.sources import UNKNOWN, Source

BEGIN = "<!-- made by `python -m bench results --write` -->"
END = "<!-- end of what was made -->"
PAGE = "bench/results"

Line = tuple[str, str]  # what was measured, and the figure


def demo(r: Mapping[str, Any]) -> Line:
    what = "SmolLM2-135M in NF4, fine-tuned to name intents"
    minutes = r["seconds"] / 60
    return (
        what,
        f"{r['tuned_accuracy']:.1%} right, base {r['base_accuracy']:.1%}, in {minutes:.1f} min",
    )


def comparison(r: Mapping[str, Any]) -> Line:
    return "QLoRA against 16-bit LoRA, that task", f"{r['difference_points']:+.1f} points"


def bases(r: Mapping[str, Any]) -> Line:
    tuned, calibrated = (
        r["table"][name]["closed"] for name in ("nf4-tuned", "nf4-tuned, calibrated")
    )
    figure = f"{tuned:.0%}, calibrated {calibrated:.0%}"
    return "nf4-tuned: of the loss from NF4 to 16 bits regained", figure


def dora(r: Mapping[str, Any]) -> Line:
    what = f"what DoRA adds to LoRA's step, {r['tokens']} tokens"
    return what, f"{r['ours added']:+.1%}, peft's {r['peft added']:+.1%}"


def planner(r: Mapping[str, Any]) -> Line:
    off = sorted(row["off"] for row in r["rows"])
    return f"`qlora plan` against {len(off)} processes", f"off by {off[0]:+.1%} to {off[-1]:+.1%}"


def watch(r: Mapping[str, Any]) -> Line:
    return "judging each training step", f"{r['share']:.2%} of the step"


def generate(r: Mapping[str, Any]) -> Line:
    ours = next(iter(r["tokens_per_second"].values()))
    times = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in r["ratios"].items())
    return f"`qlora generate`, {r['model']} in NF4, greedy", f"{ours:.1f} tokens/s, {times}"


def doctor(r: Mapping[str, Any]) -> Line:
    matrix = matrix_of(fully_known(r["runs"]))
    figure = (
        f"{matrix.right} of {matrix.faults} named first,"
        f" {matrix.accused} of {matrix.healthy} healthy runs accused"
    )
    return "`qlora doctor` on faults put in on purpose", figure


def train_step(r: Mapping[str, Any]) -> Line:
    """How much faster ours is than peft with bitsandbytes, where neither was refused."""
    times = {row["line"]: row.get("times_slower_than_ours") for row in r["rows"]}
    default = "qlora own-default" if "qlora own-default" in times else "qlora"
    shown = {default: "", "qlora raised": " raised", "lora raised": ", 16-bit LoRA"}
    told = [f"{times[name]:.2f}x{word}" for name, word in shown.items() if times.get(name)]
    what = f"a training step of ours against peft + bitsandbytes, {r['problem']['title']}"
    return what, ", ".join(told) or "refused: the losses differ"


def quality(r: Mapping[str, Any]) -> Line:
    verdicts = [row["verdict"] for row in r["claims"]]
    kinds = {kind: kind for kind in ("held", "refuted", "undecided")}
    kinds["not yet run"] = "without enough seeds"
    figure = ", ".join(f"{verdicts.count(kind)} {told}" for kind, told in kinds.items())
    return "what the literature claims of formats and methods, on SmolLM2", figure


# The record and what its line says; in this order. Kernels follow by themselves.
LINES: dict[str, Callable[[Mapping[str, Any]], Line]] = {
    "demo/report.json": demo,
    "demo-compare/result.json": comparison,
    "bases/perplexity.json": bases,
    "dora-step/512-tokens.json": dora,
    "doctor/record.json": doctor,
    "planner/record.json": planner,
    "watch-cost/smollm2.json": watch,
    "generate/smollm2.json": generate,
    "train-step/*.json": train_step,
    "quality/record.json": quality,
}


def headline(found: Sequence[Source]) -> str:
    """The table, between its marks."""
    lines = [
        [*line(source.origin), *_origin(source)]
        for pattern, line in LINES.items()
        for source in found
        if source.path.match(pattern)
    ]
    for source in found:
        if source.is_of_kernels:
            lines += [[*line, *_origin(source)] for line in kernel_lines(source.records)]
    return f"{BEGIN}\n{markdown(['what', 'measured', 'on', 'by'], lines)}\n{END}"


def kernel_lines(records: Records) -> list[Line]:
    """One for each op, backend, format, dtype and direction: how much faster than whom."""
    found = []
    key = _kind
    for kind, chosen in grouped(records, key).items():
        rivals = grouped(
            [r for r in chosen if r["against_check"] == PASSED], lambda r: r["against"]
        )
        told = [f"{name} {_range([r['ratio'] for r in theirs])}" for name, theirs in rivals.items()]
        if told:
            found.append((kind, "times as fast as " + "; ".join(told)))
    return found


def _kind(record: Mapping[str, Any]) -> str:
    case = record["case"]
    trains = " with gradients" * (case["direction"] != "forward")
    settings = record["settings"]
    where = ", weights out of cache" * bool(settings.get("cold_mb"))
    where += ", raised allocator" * (settings.get("allocator") == "raised")
    words = [f"`{record['op']}`{trains}", case["format"], case["dtype"], record["backend"]]
    return ", ".join(word for word in words if word) + where


def _range(ratios: list[float]) -> str:
    """Of one case its ratio; of several the median, and from where to where."""
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} cases)"


def _origin(source: Source) -> tuple[str, str]:
    """The machine, and the first words of the command; the page has the rest."""
    command = commands(source)[0]
    words = command.split(" --backend")[0].split(" --shapes")[0].split(" --output")[0]
    named = f"`{words}`" if command != UNKNOWN else "record"
    return source.machine, f"[{named}]({PAGE}/{source.path.as_posix()})"


def replaced(readme: str, table: str) -> str:
    """README with its table anew; its marks must be there, once and in order."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed or BEGIN in after:
        raise ValueError(f"README should have the lines {BEGIN} and {END} once")
    return before + table + after
