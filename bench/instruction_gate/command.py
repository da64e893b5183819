"""`python -m bench gate`: count, compare with what is committed, and say what grew."""

import argparse
import os
import platform

from bench.instruction_gate import limits
from bench.instruction_gate.build import build, compiler
from bench.instruction_gate.callgrind import executed, missing
from bench.instruction_gate.disassembly import inner_loops
from qlora_kernels.errors import InputError

HELP = f"""\
Instructions of the CPU kernels against the committed counts: what AVX2 and serial bodies execute in
small cases (valgrind), and the inner loops of AVX-512 bodies with their spills (objdump). Counts do
not depend on how busy the machine is, but on the compiler: each version has its own. Red where one
grew by more than {limits.SLACK - 1:.0%}. `python -m bench kernels-report` does so for GPU kernels.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="today's counts become the limits")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at once")


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 if something grew."""
    if platform.machine() != "x86_64":
        raise InputError(f"gate: should run on x86_64, was {platform.machine()}")
    if reason := missing():
        raise InputError(f"gate: {reason}")
    name, every = compiler(), limits.read()
    if name not in every and not arguments.update:
        known = ", ".join(every)
        raise InputError(f"gate: counts are committed for {known}, was {name} (UPDATE=1 adds it)")
    folder = build()
    counts = {**executed(folder, arguments.jobs), **inner_loops(folder / "isa_avx512.o")}
    if arguments.update:
        limits.write(name, counts)
        print(f"{len(counts)} counts of {name} written to {limits.FILE.name}")
        return 0
    worse = list(limits.breaches(counts, every[name]))
    for line in [*(f"better: {gain}" for gain in limits.gains(counts, every[name])), *worse]:
        print(line)
    print(f"{name}: {len(counts)} counts, {len(worse)} breaches")
    return int(bool(worse))
