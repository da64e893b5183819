"""`python -m bench kernels-report`: compile, read, compare with the limits, print."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import qlora_kernels.ops
from bench.compile_gate import budgets, cuda_rows, limits
from bench.compile_gate.compiled import Row, compile_row
from bench.compile_gate.machines import MACHINES
from bench.compile_gate.told import bounds_told, ignored
from qlora_kernels.files import write_text

HELP = """\
Compiles every GPU kernel in every configuration that can be chosen, for four architectures and
without a GPU, and reads the machine code: registers, spills, shared memory, occupancy, the matrix
instruction, instructions per decoded weight, and the share of the roof that these leave in reach.
"""
OUTPUT = Path("build/kernels.json")
BACKENDS = ("triton", "cuda")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ops", default="", metavar="A,B", help="only these")
    parser.add_argument("--backend", choices=BACKENDS, help="only its kernels")
    parser.add_argument(
        "--sample", action="store_true", help="only two configurations of each kernel, for CI"
    )
    parser.add_argument("--update", action="store_true", help="make today's values the limits")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the rows as JSON")


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 if a kernel is worse than its limits."""
    wanted = {name for name in arguments.ops.split(",") if name}
    rows = [] if arguments.backend == "cuda" else triton_rows(wanted, arguments.sample)
    reads_cuda = arguments.backend != "triton" and cuda_rows.why_not() is None
    broken = [line for line in (cuda_rows.fault(),) if reads_cuda and line is not None]
    if reads_cuda and not broken:
        rows += cuda_rows.cuda_rows(wanted)
    elif arguments.backend != "triton":
        print(f"kernels-report: {cuda_rows.why_not() or 'the CUDA kernels are not read'}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output, json.dumps([_record(row) for row in rows], indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
    for line in bounds_told(rows):
        print(line)
    known = limits.read()
    compiled = {row.key for row in rows}
    partial = wanted or arguments.sample or arguments.backend or not reads_cuda
    others = {key: limit for key, limit in known.items() if partial and key not in compiled}
    broken += budgets.broken(rows)
    if arguments.update:
        limits.write(rows, others)
    else:
        known = {key: limit for key, limit in known.items() if key not in others}
        broken += limits.breaches(rows, known)
    for line in broken:
        print(f"kernels-report: {line}", file=sys.stderr)
    return int(bool(broken))


def triton_rows(wanted: set[str], is_sample: bool) -> list[Row]:
    """Every case of the wanted rooms, or of all, compiled in parallel."""
    jobs = [
        (op, number, architecture)
        for op in rooms()
        if not wanted or op in wanted
        for number in (sampled(cases(op)) if is_sample else range(len(cases(op))))
        for architecture in MACHINES
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_row, *zip(*jobs, strict=True))) if jobs else []


def rooms() -> Iterator[str]:
    """Ops that have Triton kernels."""
    for file in sorted(Path(qlora_kernels.ops.__path__[0]).glob("*/triton_kernel.py")):
        yield file.parent.name


def cases(op: str) -> list[Any]:
    """What the launch rule of an op can choose."""
    return list(import_module(f"qlora_kernels.ops.{op}.triton_kernel").compile_cases())


def sampled(every: list[Any]) -> list[int]:
    """The first and the last configuration of each kernel: the numbers of those cases."""
    by_kernel: dict[str, list[int]] = {}
    for number, case in enumerate(every):
        by_kernel.setdefault(case.name, []).append(number)
    return sorted({n for numbers in by_kernel.values() for n in (numbers[0], numbers[-1])})


def _row(op: str, number: int, architecture: int) -> Row:
    """Cases hold functions, which don't travel between processes: they are named by number."""
    return compile_row(cases(op)[number], architecture)


def _record(row: Row) -> dict[str, Any]:
    return {**asdict(row), "bound_ignores": ignored(row)}


def table(rows: list[Row]) -> Table:
    made = Table(title="kernels, compiled without a GPU", title_justify="left")
    columns = ("kernel", "arch", "regs", "spills", "shared", "occ.", "matrix instruction",
               "SASS/weight", "beyond memory", "loads", "bound")  # fmt: skip
    for column in columns:
        made.add_column(column, no_wrap=column != "kernel")  # its configuration may be long
    for row in rows:
        made.add_row(*map(escape, _cells(row)))
    return made


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.kernel} [{row.configuration}]",
        row.arch,
        str(row.registers),
        str(row.spills),
        str(row.shared_bytes),
        f"{row.occupancy:.0%}",
        row.matrix_instruction,
        "" if row.sass_per_weight is None else f"{row.sass_per_weight:.2f}",
        "" if row.sass_beyond_memory is None else f"{row.sass_beyond_memory:.2f}",
        row.loads,
        f"{row.bound_share:.0%} of {row.bound_roof} ({row.bound_limit})",
    )
