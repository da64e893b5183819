"""`python -m bench gpu`: environment, build, tests (red first), sanitizers, then times."""

import argparse
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import torch

from bench.gpu.build import build, carried_packages
from bench.gpu.goals import goals_told
from bench.gpu.launch_table import launch_table
from bench.gpu.measurements import measure, num_records
from bench.gpu.outcomes import FAILED, PASSED, SKIPPED, Outcome
from bench.gpu.picture import picture
from bench.gpu.place import DEVICES, GPU, REHEARSAL, ROOT, Place, slug, variables
from bench.gpu.preferences import preferences_told
from bench.gpu.verify import BACKENDS, OUTCOMES, earlier_tests, green_ops, run_tests, sanitize
from bench.kernels.ops import OPS
from qlora.provenance import gpu_model, versions
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

HELP = """\
On a machine with a GPU and with the Python that it is called with: builds, runs the GPU tests, and
times what is green, most valuable first. Needs no network and no environment of its own. Packages
that the machine lacks (bitsandbytes, say) are taken from wheels/*.whl in the root of the sources.
"""
STAGES = ("build", "tests", "sanitizer", "bench", "table")
PACKAGES = ("torch", "triton", "numpy", "pytest", "bitsandbytes", "peft", "transformers")
SANITIZER_SECONDS = 45
BENCH_SECONDS = 150  # that the sanitizers leave for what is timed after them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=DEVICES, default=GPU, help=f"{REHEARSAL}: tiny cases without a GPU"
    )
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="end within; what is left is cut"
    )
    parser.add_argument(
        "--stages",
        default=",".join(STAGES[:-1]),
        metavar="S,T",
        help=f"some of {', '.join(STAGES)}, so that short calls can do the whole; table "
        "measures the launch table anew and is not among the default",
    )
    parser.add_argument("--output", type=Path, help="by default $OUT, or bench/results/<gpu>")


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 if a test is red or nothing was timed that should have been."""
    stages = _stages(arguments.stages)
    place = _place(arguments, stages)
    _say(place, "environment", _environment())
    packages = carried_packages(place)
    if packages is not None:
        sys.path.append(str(packages))  # pybind11 or xdist may be among them: stages ask
    place = replace(place, variables=variables(place.rehearses, packages))
    if "build" in stages:
        for line in build(place):
            _say(place, "build", line)
    red = "tests" in stages and _tests(place)
    if "sanitizer" in stages:
        for line in sanitize(place, SANITIZER_SECONDS, BENCH_SECONDS if "bench" in stages else 0):
            _say(place, "sanitizer", line)
            red = red or ": red" in line
    if "bench" in stages:
        red = not _bench(place) or red
    if "table" in stages:
        for line in launch_table(place):
            _say(place, "table", line)
    _say(place, "end", f"{place.seconds_left:.0f} s left, all of it in {place.output}")
    return int(red)


def _tests(place: Place) -> bool:
    """Run and tell them; whether one is red."""
    (place.output / OUTCOMES).unlink(missing_ok=True)
    tests = [test for backend in BACKENDS for test in run_tests(place, backend)]
    for line in told(tests):
        _say(place, "tests", line)
    return any(test.status == FAILED for test in tests)


def _bench(place: Place) -> bool:
    """Time what is green and tell the goals; whether there is a record."""
    tests = earlier_tests(place.output)
    if not tests:
        _say(place, "bench", "no tests of an earlier call: what is timed is only checked before it")
    whole = place.output / "kernels.jsonl"
    for output in measure(place, green_ops(tests) if tests else None, set(OPS)):
        _say(place, "bench", output)
    for line in goals_told(whole):
        _say(place, "goal", line)
    for line in preferences_told(whole, None if place.rehearses else _architecture()):
        _say(place, "order", line)
    count = num_records(whole)
    _say(place, "bench", f"{count} records in {whole}")
    if count:
        _say(place, "picture", picture(whole, whole.with_suffix(".png")))
    return count > 0


def _architecture() -> str:
    """`sm_90`, as qlora_kernels/gpu/preferred.json names them."""
    return f"sm_{''.join(map(str, torch.cuda.get_device_capability()))}"


def told(tests: list[Outcome]) -> list[str]:
    """Red tests first, then what was skipped and why, then the counts."""
    lines = [f"RED {t.op} {t.name}: {t.message}" for t in tests if t.status == FAILED]
    lines += sorted({f"skipped {t.op}: {t.message}" for t in tests if t.status == SKIPPED})
    counts = {o: sum(t.status == o for t in tests) for o in (FAILED, PASSED, SKIPPED)}
    return [*lines, ", ".join(f"{count} {outcome}" for outcome, count in counts.items())]


def _stages(words: str) -> tuple[str, ...]:
    chosen = tuple(word.strip() for word in words.split(","))
    for word in chosen:
        if word not in STAGES:
            hint = did_you_mean(word, STAGES) or f" (there are: {', '.join(STAGES)})"
            raise InputError(f"bench gpu: --stages should name stages, was {word!r}{hint}")
    return chosen


def _place(arguments: argparse.Namespace, stages: tuple[str, ...]) -> Place:
    gpu = gpu_model()
    if gpu is None and arguments.device == GPU:
        raise InputError(f"bench gpu: should find an NVIDIA GPU, found none (--device {REHEARSAL})")
    name = REHEARSAL if arguments.device == REHEARSAL else slug(str(gpu))
    told_output = os.environ.get("OUT")
    default = Path(told_output) if told_output else ROOT / "bench/results" / name
    output = (arguments.output or default).absolute()
    output.mkdir(parents=True, exist_ok=True)
    if "tests" in stages:  # a call without goes on with the report of one before it
        for name in ("report.txt", "stages.log"):
            (output / name).unlink(missing_ok=True)
    end = monotonic() + 60 * arguments.minutes
    return Place(output, arguments.device, end, variables(arguments.device == REHEARSAL, None))


def _environment() -> str:
    found = " ".join(f"{name} {number}" for name, number in versions(PACKAGES).items())
    gpu = gpu_model()
    capability = "" if gpu is None else f" {_architecture()}"
    return f"{gpu or 'no GPU'}{capability}, {platform.machine()}, {os.cpu_count()} cores, {found}"


def _say(place: Place, stage: str, text: str) -> None:
    """Print, and keep: what was cut off has its report so far."""
    line = f"{stage}: {text}"
    print(line, flush=True)
    with (place.output / "report.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
