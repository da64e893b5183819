"""`python -m bench train-step`: measure all lines in turn, check them, write what came of it."""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.train_step.lines import DEFAULT_METHODS, lines
from bench.train_step.measure import Rounds, judged, measure
from bench.train_step.methods import METHODS
from bench.train_step.problem import SMOLLM2, STACKS, TRAINERS_ATTENTION, Problem
from bench.train_step.record import dtype_name, page, plot, record_of
from qlora.demo.fetch import fetch_model
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text

HELP = """\
Tokens a second, peak memory and joules of whole training steps: full fine-tuning, 16-bit LoRA
(peft), QLoRA (peft + bitsandbytes) and ours, with the same model, rows, seed and checkpointing.
Each line runs in a process of its own, all in turn in each round; a line whose losses are not those
of the peer that does the same gets no speed. On a machine without a GPU nothing else should run
meanwhile. About 6 minutes for SmolLM2 on 2 cores; for a part of a large model:
  python -m bench train-step --model llama-7b --layers 1 --rows 1 --rounds 3 --steps 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(STACKS)
    parser.add_argument(
        "--model",
        default=SMOLLM2,
        metavar="NAME",
        help=f"a folder; {SMOLLM2}, the real one; or random weights in the shape of: {names}",
    )
    parser.add_argument("--layers", type=int, default=1, help="of a shape with random weights")
    parser.add_argument("--rows", type=int, default=4, help="in a step")
    parser.add_argument("--tokens", type=int, default=128, help="in a row")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters, alpha is 32")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument(
        "--attention",
        choices=("eager", "sdpa"),
        default=TRAINERS_ATTENTION,
        help="of all lines but those of own defaults; eager is faster for short rows on a CPU",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(DEFAULT_METHODS),
        metavar="NAME",
        help=f"of {', '.join(METHODS)}; default {' '.join(DEFAULT_METHODS)}",
    )
    parser.add_argument("--rounds", type=int, default=3, help="3 or more for a record")
    parser.add_argument("--steps", type=int, default=3, help="of each line in each round")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench/results/train-step"),
        help="folder of record, page and picture, one of each per model",
    )


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.methods:
        if name not in METHODS:
            hint = did_you_mean(name, METHODS) or f" (known: {', '.join(METHODS)})"
            raise InputError(f"train-step: --methods should name methods, was {name!r}{hint}")
    for name in ("layers", "rows", "rank", "rounds", "steps", "threads"):
        if (value := getattr(arguments, name)) < 1:
            raise InputError(f"train-step: --{name} should be at least 1, was {value}")
    problem = problem_of(arguments)
    rounds = Rounds(arguments.rounds, arguments.steps, arguments.threads)
    chosen = lines(present(arguments.methods), problem)
    found = measure(chosen, problem, rounds, partial(print, flush=True))
    agreed = judged(found, dtype_name())
    record = record_of(problem, rounds, found, agreed)
    folder, name = arguments.output, slug(problem)
    write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    write_text(folder / f"{name}.md", page(record))
    plot(record, folder / f"{name}.png")
    print(f"\n{page(record)}\nwritten to {folder / name}.json, .md and .png")
    return int(not all(agreement.holds for agreement in agreed))


def problem_of(arguments: argparse.Namespace) -> Problem:
    """What the flags say; fetches SmolLM2 where it is asked for and not there yet."""
    model = str(fetch_model(print)) if arguments.model == SMOLLM2 else arguments.model
    if not Path(model).is_dir() and model not in STACKS:
        hint = did_you_mean(model, STACKS) or f" (known: {', '.join(STACKS)})"
        raise InputError(
            f"train-step: --model should be a folder or a known name, was {model!r}{hint}"
        )
    return Problem(
        model=model,
        layers=arguments.layers,
        rows=arguments.rows,
        tokens=arguments.tokens,
        rank=arguments.rank,
        checkpointing=arguments.checkpointing,
        attention=arguments.attention,
        seed=arguments.seed,
    )


def present(methods: Sequence[str]) -> list[str]:
    """Those whose packages are here; the others are named."""
    reasons = {name: METHODS[name].missing() for name in methods}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} does not take part: {reason}")
    return [name for name, reason in reasons.items() if not reason]


def slug(problem: Problem) -> str:
    """The name of the record's files."""
    name = Path(problem.model).name if problem.is_folder else f"{problem.model}-x{problem.layers}"
    attention = f"-{problem.attention}" * (problem.attention != TRAINERS_ATTENTION)
    kept = "-checkpointed" * problem.checkpointing
    return f"{name}-{problem.rows}x{problem.tokens}{attention}{kept}"
