"""`python -m bench`: kernels with `--op`, or a study by its name."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from qlora.cli import Parser
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

# name -> module, imported only when it is asked for; one line each.
STUDIES: dict[str, str] = {
    "bases": "bench.bases",
    "codebook": "bench.codebook",
    "continual": "bench.continual",
    "doctor": "bench.doctor.command",
    "dora-step": "bench.dora_step",
    "gate": "bench.instruction_gate",
    "generate": "bench.generate",
    "gpu": "bench.gpu",
    "kernels-report": "bench.compile_gate",
    "merge-7b": "bench.merge_7b",
    "merging": "bench.merging.command",
    "planner": "bench.planner.command",
    "quality": "bench.quality.command",
    "results": "bench.results_page",
    "train-step": "bench.train_step.command",
    "watch-cost": "bench.watch_cost",
}

KERNELS = "bench.kernels"


class Study(Protocol):
    """What the module of a study offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["python", "-m", "bench", *words])
    names = ", ".join(sorted(STUDIES)) or "none yet"
    name = words.pop(0) if words and not words[0].startswith("-") else None
    program = "bench" if name is None else f"bench {name}"
    if name is not None and name not in STUDIES:
        hint = did_you_mean(name, STUDIES)
        print(f"bench: unknown study {name}{hint} (there are: {names})", file=sys.stderr)
        return 2
    study = cast(Study, import_module(KERNELS if name is None else STUDIES[name]))
    parser = Parser(program, study.HELP, f"studies (bench NAME --help): {names}\n")
    study.add_arguments(parser)
    try:
        parsed = parser.parse_strictly(words)
        parsed.command = command  # for the record
        return study.run(parsed)
    except InputError as error:
        told = str(error).removeprefix("bench: ").removeprefix(f"{name}: ")
        print(f"{program}: {told}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
