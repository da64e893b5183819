"""`python -m bench --op OP`: from options to records, a table and a plot."""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import qlora_kernels as qk
from bench.kernels import base, ops, peers
from bench.kernels.case import DIRECTIONS, DTYPES, Case
from bench.kernels.clock import MIN_ROUNDS
from bench.kernels.environment import ALLOCATORS, start_again, wanted
from bench.kernels.kept import Kept, foretold, resumed
from bench.kernels.measure import Session
from bench.kernels.pace import Effort
from bench.kernels.passes import SHORT_ROUNDS, Limits, timed
from bench.kernels.plot import roofline
from bench.kernels.shapes import shapes
from bench.kernels.table import table
from qlora.provenance import provenance
from qlora.spelling import did_you_mean
from qlora_kernels import native
from qlora_kernels.errors import InputError

HELP = """\
Times the kernels of one op and its peers in the same rounds, after checking what they compute.

  python -m bench --op qlora_linear --against torch,bitsandbytes,peft --shapes llama-8b --m 1,128
  python -m bench --op dequantize --backend triton --shapes 4096x4096 --json d.jsonl --plot d.png
  python -m bench --op quantize --shapes smollm2 --base HEAD~3    # what three commits changed
  python -m bench --op qlora_linear --against torch --runs 3 --minutes 9 --resume --json q.jsonl
      # the same again goes on where the minutes ended
"""
PACKAGES = (
    "qlora_kernels", "torch", "triton", "bitsandbytes", "peft", "torchao", "transformers"
)  # fmt: skip
GPU_BACKENDS = ("triton", "cuda")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", required=True, metavar="OP", help=", ".join(ops.OPS))
    parser.add_argument("--backend", default="cpu", metavar="B", help="as qk.backends() names it")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default where it runs")
    parser.add_argument("--against", default="", metavar="A,B", help=", ".join(peers.PEERS))
    parser.add_argument("--base", metavar="REV", help="and against this commit, built beside")
    parser.add_argument("--shapes", metavar="S,T", help="models, or NxK")
    parser.add_argument("--m", metavar="M,N", help="rows of x")
    parser.add_argument("--dtype", metavar="D,E", help=", ".join(DTYPES))
    parser.add_argument("--direction", metavar="D,E", help=", ".join(DIRECTIONS))
    parser.add_argument("--rank", type=int, default=16, help="of the adapter; 0: none")
    parser.add_argument("--format", help="of the base weight (nf4), or of states (8bit)")
    parser.add_argument("--seconds", type=float, default=1.0, help="per contender and case")
    parser.add_argument("--minutes", type=float, help="of the whole call, cases as listed")
    parser.add_argument("--runs", type=int, default=1, help="of each case: after all the others")
    parser.add_argument(
        "--once-over", type=float, default=inf, metavar="S", help="a slower call of a peer: once"
    )
    parser.add_argument(
        "--slowest-call", type=float, default=inf, metavar="S", help="a slower one: not at all"
    )
    parser.add_argument(
        "--cold-mb", type=int, default=0, help="take turns over so many MB of inputs"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU, each bound")
    parser.add_argument("--allocator", choices=ALLOCATORS, default="default", help="glibc's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records as JSON lines")
    parser.add_argument("--resume", action="store_true", help="go on with what FILE has")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the roofline as a PNG")


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 if something was red."""
    cases = list(_cases(arguments))
    _known("--backend", [arguments.backend], qk.backends())
    if reason := qk.backends()[arguments.backend]:
        raise InputError(f"bench: --backend {arguments.backend} cannot run here: {reason}")
    if arguments.op in ops.STEPS and arguments.backend != "cpu":
        raise InputError(f"bench: {arguments.op} is of --backend cpu, was of {arguments.backend}")
    against = peers.load(arguments.against)
    revision, tree = None, None
    if arguments.base:
        base.refuse_stale()
        revision = base.resolve(arguments.base)
        tree = base.tree_of(revision, arguments.backend == "cuda")
    if arguments.resume and not arguments.json:
        raise InputError("bench: --resume should have a file to go on with: --json FILE")
    start_again(wanted(arguments.threads, arguments.allocator))
    session = _session(arguments, against)
    kept = Kept(arguments.json)
    if arguments.resume:
        kept = resumed(arguments.json, session.origin)
    if revision and tree:
        session = _with_base(session, revision, tree)
    session = replace(session, pace=foretold(kept.under(session.settings), session.backend))
    try:
        return _measured(arguments, session, cases, kept)
    finally:
        if session.base:
            session.base.end()


def _measured(
    arguments: argparse.Namespace, session: Session, cases: list[Case], kept: Kept
) -> int:
    """Records, table and plot; 1 if something was red."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    red = False
    for line in timed(session, cases, kept, Limits(arguments.runs, arguments.minutes)):
        console.print(line, markup=False)
        red = red or " is red" in line
    if records := kept.under(session.settings):
        console.print(table(records, f"{arguments.op}, {arguments.backend}"))
        if arguments.plot:
            roofline(records, arguments.plot)
    return int(red)


def _session(arguments: argparse.Namespace, against: dict[str, Any]) -> Session:
    gpu = arguments.backend in GPU_BACKENDS and torch.cuda.is_available()
    device = arguments.device or ("cuda" if gpu else "cpu")
    settings: dict[str, object] = {
        "command": _repeatable(arguments.command),
        "device": device,
        "cold_mb": arguments.cold_mb,
    }
    if device == "cpu":
        torch.set_num_threads(arguments.threads)
        settings |= {"threads": arguments.threads, "allocator": arguments.allocator}
        if arguments.backend == "cpu":
            settings["isa"] = native.cpu().isa()
    elif arguments.once_over < inf or arguments.slowest_call < inf:
        raise InputError("bench: --once-over and --slowest-call should be for a CPU's peers")
    short = arguments.minutes or arguments.runs > 1
    return Session(
        arguments.backend,
        against,
        device,
        settings,
        provenance(PACKAGES),
        Effort(
            arguments.seconds,
            SHORT_ROUNDS if short else MIN_ROUNDS,
            arguments.once_over,
            arguments.slowest_call,
        ),
        arguments.cold_mb << 20,
    )


def _with_base(session: Session, revision: base.Revision, tree: Path) -> Session:
    """The record names both commits: the base's here, ours with its `-dirty` as everywhere."""
    settings = {**session.settings, "base": asdict(revision)}
    process = base.start(revision, tree, session.backend, session.device)
    return replace(session, base=process, settings=settings)


def _repeatable(command: str) -> str:
    """The command without where its files go, and in how many calls."""
    return re.sub(r" --(json|plot|minutes)[ =]\S+| --resume", "", command)


def _cases(arguments: argparse.Namespace) -> Iterable[Case]:
    """Every combination: a weight after the other as listed, few rows first."""
    op = arguments.op
    _known("--op", [op], ops.OPS)
    names = ("dtype", "direction", "m", "shapes")
    dtype, direction, m_words, shape_names = (
        getattr(arguments, name) or ops.default(op, name) for name in names
    )
    dtypes = _known("--dtype", dtype.split(","), DTYPES)
    directions = _known("--direction", direction.split(","), DIRECTIONS)
    sizes = _sizes(m_words)
    if op in ops.WITHOUT_ROWS:
        sizes = [0]
    if op in (*ops.WITHOUT_ROWS, *ops.STEPS):
        directions = directions[:1]
    for shape in shapes(shape_names, op):
        for dtype in dtypes:
            for m in sizes:
                for direction in directions:
                    yield Case(
                        op,
                        *shape,
                        m,
                        dtype,
                        direction,
                        rank=0 if op in ops.WITHOUT_ADAPTER else arguments.rank,
                        format=arguments.format or ops.DEFAULT_FORMATS.get(op, "nf4"),
                    )


def _sizes(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise InputError(f"bench: --m should be numbers, as in 1,8,128, was {text!r}")
    return sorted(int(word) for word in text.split(","))


def _known(option: str, words: list[str], known: Iterable[str]) -> list[str]:
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known) or f" (known: {', '.join(known)})"
            raise InputError(f"bench: {option} {word!r} is unknown{hint}")
    return words
