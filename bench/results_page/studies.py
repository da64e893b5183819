"""The studies whose records are committed: one row each; what has no row is shown as it is."""

from pathlib import PurePath

from bench.doctor.matrix import fully_known, matrix_of
from bench.quality.claims_table import NOT_SHOWN
from bench.quality.intervals import FEWEST
from bench.results_page.sources import UNKNOWN
from bench.results_page.study import Figures, Record, Study, plain_figures, told

MEBIBYTE = 1 << 20


def demo(r: Record) -> Figures:
    head = ["tuned right", "zero-shot", "majority", "base", "bytes per weight", "minutes"]
    names = ("tuned_accuracy", "zero_shot_accuracy", "majority_accuracy", "base_accuracy")
    shares = [f"{r[name]:.1%}" for name in names]
    return head, [[*shares, f"{r['bytes_per_weight']:.4f}", f"{r['seconds'] / 60:.1f}"]]


def comparison(r: Record) -> Figures:
    lines = [
        [name, f"{row['mean']:.1%}", f"{row['spread']:.1%}", _percents(row["accuracies"])]
        for name, row in r["summary"].items()
    ]
    return ["base", "mean right", "spread", "each seed"], lines


def _percents(values: list[float]) -> str:
    return ", ".join(f"{value:.1%}" for value in values)


def perplexity(r: Record) -> Figures:
    lines = [
        [
            name,
            f"{row['perplexity']:.2f}",
            f"{row['closed']:.0%}",
            "{:.0%} to {:.0%}".format(*row["interval"]),
        ]
        for name, row in r["table"].items()
    ]
    return ["base", "perplexity", "closed from NF4 to 16 bits", "95 % interval"], lines


def squared_errors(r: Record) -> Figures:
    """Synthetic weights, and the median over the layers of a model."""
    found: dict[str, Record] = {}
    layers = [row for name, row in r["squared_error"].items() if "." in name]
    for name, row in r["squared_error"].items():
        if "." not in name:
            found[name] = row
    if layers:
        middle = {name: sorted(row[name] for row in layers)[len(layers) // 2] for name in layers[0]}
        found[f"{len(layers)} layers, in the middle"] = middle
    head = ["weights", *next(iter(found.values()))]
    return head, [[name, *(f"{v:.3f}" for v in row.values())] for name, row in found.items()]


def continual(r: Record) -> Figures:
    tasks = list(next(iter(r["runs"].values())))
    lines = [
        [name, *(f"{run[task]['adapter']['accuracy']:.0%}" for task in tasks)]
        for name, run in r["runs"].items()
    ]
    return ["adapter", *(f"{task} task right" for task in tasks)], lines


def dora_step(r: Record) -> Figures:
    lines = [
        [
            engine,
            *(f"{r[f'{engine} {m}']:.3f} s" for m in ("lora", "dora")),
            f"{r[f'{engine} added']:+.1%}",
        ]
        for engine in ("ours", "peft")
    ]
    return ["engine", "LoRA's step", "DoRA's", "added"], lines


def merge(r: Record) -> Figures:
    lines = [
        [
            row["method"],
            row["rank"],
            f"{row['seconds']:.1f}",
            f"{row['peak_bytes'] / MEBIBYTE:,.0f}",
        ]
        for row in r["rows"]
    ]
    return ["method", "rank", "seconds", "peak MiB"], lines


def planner(r: Record) -> Figures:
    lines = [
        [
            row["shape"], row["method"], "yes" if row["checkpointing"] else "no",
            f"{row['predicted_bytes'] / MEBIBYTE:,.0f}", f"{row['measured_bytes'] / MEBIBYTE:,.0f}",
            f"{row['off']:+.1%}",
        ]
        for row in r["rows"]
    ]  # fmt: skip
    return ["shape", "method", "checkpointed", "predicted MiB", "measured MiB", "off"], lines


def train_step(r: Record) -> Figures:
    """A line that disagreed with its twin has no speed; the rounds are the runs."""
    lines = []
    for row in r["rows"]:
        figures = ["refused: its losses are others"] + [""] * 3
        if not row["refused"]:
            times = row["times_slower_than_ours"]
            figures = [
                f"{row['tokens_per_second']:.1f}", f"{row['slowest']:.1f} to {row['fastest']:.1f}",
                f"{times:.2f}" if times else "", f"{row['peak_bytes'] / MEBIBYTE:,.0f}",
            ]  # fmt: skip
        lines.append([row["line"], *figures, f"{row['losses'][-1]:.4f}"])
    rounds = f"of {r['rounds']} rounds"
    return ["line", "tokens/s", rounds, "its step / ours", "peak MiB", "last loss"], lines


def watch(r: Record) -> Figures:
    row = [r["model"], f"{r['step_ms']:,.0f} ms", f"{r['watch_ms']:.1f} ms", f"{r['share']:.2%}"]
    return ["model", "step", "watch", "share"], [row]


def generate(r: Record) -> Figures:
    rows = [
        [name, f"{rate:.1f}", f"{r['ratios'][name]:.2f}x" if name in r["ratios"] else ""]
        for name, rate in r["tokens_per_second"].items()
    ]
    return ["engine", "tokens/s", "ours is"], rows


def doctor(r: Record) -> Figures:
    matrix = matrix_of(fully_known(r["runs"]))
    head = ["faults", "named first", "healthy runs", "accused"]
    return head, [[told(n) for n in (matrix.faults, matrix.right, matrix.healthy, matrix.accused)]]


def quality(r: Record) -> Figures:
    """The claims of which both sides have run with a seed in common; its own page has the rest."""
    lines = [
        [
            row["claim"], row["by"], f"{row['gain']:+.3g}", _interval(row), told(row["seeds"]),
            row["verdict"] if row["seeds"] >= FEWEST else NOT_SHOWN,
        ]
        for row in r["claims"]
        if row["gain"] is not None
    ]  # fmt: skip
    return ["claim", "by", "gain", "95 % interval", "seeds", "verdict"], lines


def _interval(row: Record) -> str:
    return "" if row["low"] is None else f"{row['low']:+.3g} to {row['high']:+.3g}"


def merging(r: Record) -> Figures:
    head = ["skills judged", "styles judged", "seeds"]
    seeds = sorted({row["seed"] for row in r["skills"]})
    return head, [[told(len(r["skills"])), told(len(r["styles"])), ", ".join(map(str, seeds))]]


_DOCTOR = "python -m bench doctor --seeds {} --output bench/results/{}"
STUDIES = {
    "demo/report.json": Study("The demo", "make demo", demo),
    "demo-compare/result.json": Study("QLoRA against 16-bit LoRA", "make demo-compare", comparison),
    "bases/perplexity.json": Study(
        "Base formats: perplexity", "python -m bench bases --only perplexity", perplexity
    ),
    "bases/weights.json": Study(
        "Base formats: squared error over NF4's",
        "python -m bench bases --only weights",
        squared_errors,
    ),
    "continual/tiny.json": Study(
        "Two tasks, one after the other",
        "python -m bench continual --output bench/results/continual/tiny.json",
        continual,
    ),
    "doctor/record.json": Study("Faults on purpose", "make doctor-bench", doctor),
    "doctor/first/record.json": Study(
        "Faults on purpose: the seeds reported first",
        _DOCTOR.format("0 1 2", "doctor/first"),
        doctor,
    ),
    "doctor/development/record.json": Study(
        "Faults on purpose: the seeds that thresholds were set on",
        _DOCTOR.format("100 101", "doctor/development"),
        doctor,
    ),
    "generate/smollm2.json": Study(
        "Greedy tokens of a whole model",
        "python -m bench generate --tokens {tokens} --rounds {rounds} --rank {rank}"
        " --output bench/results/generate/smollm2.json",
        generate,
    ),
    "merge-7b/record.json": Study(
        "Merging adapters of a 7B model", "python -m bench merge-7b --record", merge
    ),
    "merging/record.json": Study("What merging keeps", "python -m bench merging", merging),
    "planner/record.json": Study(
        "`qlora plan` against processes that train", "python -m bench planner --record", planner
    ),
    "quality/record.json": Study(
        "What formats and methods are worth", "python -m bench quality", quality
    ),
    "train-step/*.json": Study(
        "Training steps: {problem[title]}", "python -m bench train-step", train_step
    ),
    "watch-cost/smollm2.json": Study(
        "What watching a run costs",
        "python -m bench watch-cost --output bench/results/watch-cost/smollm2.json",
        watch,
    ),
} | {
    f"dora-step/{tokens}-tokens.json": Study(
        f"DoRA's step over LoRA's, {tokens} tokens",
        "python -m bench dora-step --layers {layers} --tokens {tokens}"
        " --output bench/results/dora-step/{tokens}-tokens.json",
        dora_step,
    )
    for tokens in (512, 128)
}


def study_of(path: str) -> Study:
    """Its row; else the file's name as a title, and whatever the record says of itself."""
    as_it_is = Study(f"`{path}`", UNKNOWN, plain_figures)
    return next((s for pattern, s in STUDIES.items() if PurePath(path).match(pattern)), as_it_is)
