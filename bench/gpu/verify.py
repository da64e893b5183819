"""The GPU test list and the sanitizers; what is red stands first."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.gpu.outcomes import BACKEND, FAILED, FILE, PASSED, Outcome, named, read
from bench.gpu.place import Place

TESTS = "tests/gpu"
# backend -> the longest its tests may take; each runs in a process of its own.
BACKENDS = {"triton": 240.0, "cuda": 120.0}
REHEARSAL_SECONDS = 390.0  # Python plays the GPU
SANITIZERS = {"triton": ("memcheck", "racecheck"), "cuda": ("memcheck", "racecheck", "initcheck")}
PYTEST = ("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider")
# Another machine's pytest and torch may be older, and warn of what is none of ours.
LENIENT = ("-o", "minversion=7.0", "-o", "filterwarnings=default")
OUTCOMES = "tests.jsonl"
MOST_WORKERS = 8  # processes on one GPU: what takes long is Triton's compiling, on the host


def testing(place: Place, backend: str) -> Place:
    """The same place, where the GPU tests are a backend's."""
    told = {BACKEND: backend, FILE: str(place.output / OUTCOMES)}
    return replace(place, variables={**place.variables, **told})


def run_tests(place: Place, backend: str) -> Iterator[Outcome]:
    """Every op, dtype and case against float64; also what is known of a run that was cut off."""
    file = place.output / OUTCOMES
    before = len(list(read(file)))
    command = [*PYTEST, *LENIENT, "-p", "bench.gpu.outcomes", *_workers(place), TESTS]
    limit = REHEARSAL_SECONDS if place.rehearses else BACKENDS[backend]
    code, output = testing(place, backend).python(*command, seconds=limit)
    place.log(output)
    found = list(read(file))[before:]
    yield from found
    if code not in (0, 1) or (code == 1 and not any(o.status == FAILED for o in found)):
        last = (output.strip().splitlines() or ["no output"])[-1]
        name = f"pytest ended with {code} after {len(found)} tests"
        yield Outcome(named("all", backend), name, FAILED, last)


def _workers(place: Place) -> tuple[str, ...]:
    """As many processes as compile side by side, where pytest-xdist is there."""
    count = min(MOST_WORKERS, (os.cpu_count() or 1) // 2)
    if place.rehearses or count < 2 or importlib.util.find_spec("xdist") is None:
        return ()
    return ("-n", str(count))


def green_ops(tests: list[Outcome]) -> set[str]:
    """Ops with a test that passed and none that failed."""
    red = {test.op for test in tests if test.status == FAILED}
    return {test.op for test in tests if test.status == PASSED} - red


def earlier_tests(output: Path) -> list[Outcome]:
    """Those of an earlier call with the same folder."""
    return list(read(output / OUTCOMES))


def sanitize(place: Place, seconds: float, reserve: float) -> Iterator[str]:
    """compute-sanitizer over the short list, one line for each tool; `reserve` seconds are left."""
    for backend, tool in [(b, tool) for b, tools in SANITIZERS.items() for tool in tools]:
        name = named(tool, backend)
        if place.rehearses:
            yield f"{name}: not run, there is no GPU to check"
            continue
        if place.seconds_left < seconds + reserve:
            yield f"{name}: not run, the rest of the time is for what comes after"
            continue
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        there = replace(place, variables={**place.variables, BACKEND: backend})
        code, output = there.call(
            [*command, *PYTEST, "-p", "no:xdist", *LENIENT, TESTS, "-m", "sanitizer"],
            seconds=seconds,
        )
        place.log(output)
        last = (output.strip().splitlines() or ["no output"])[-1]
        yield f"{name}: {_verdict(code, last)}"


def _verdict(code: int, last: str) -> str:
    """Only a finding is red: what is missing or out of time found nothing."""
    if code == 0:
        return "clean"
    return f"not finished ({last})" if code in (124, 127) else f"red ({last})"
