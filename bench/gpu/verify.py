"""The GPU test list and the sanitizers; what is red stands first."""

import sys
import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.gpu.place import Place

TESTS = "tests/gpu"
# backend -> the longest its tests may take; each runs in a process of its own.
BACKENDS = {"triton": 240.0, "cuda": 150.0}
SANITIZERS = {"triton": ("memcheck", "racecheck"), "cuda": ("memcheck", "racecheck", "initcheck")}
PYTEST = ("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist")
# Another machine's pytest and torch may be older, and warn of what is none of ours.
LENIENT = ("-o", "minversion=7.0", "-o", "filterwarnings=default")


@dataclass(frozen=True)
class Outcome:
    """One test as pytest reported it."""

    op: str
    name: str
    status: str  # passed, failed, skipped
    message: str = ""


def named(op: str, backend: str) -> str:
    """An op of a backend, for people: Triton's is the plain one."""
    return op if backend == "triton" else f"{op} ({backend})"


def testing(place: Place, backend: str) -> Place:
    """The same place, where the GPU tests are a backend's."""
    return replace(place, variables={**place.variables, "QLORA_GPU_TESTS": backend})


def run_tests(place: Place, backend: str) -> list[Outcome]:
    """Every op, dtype and case against float64."""
    report = place.output / "tests.xml"
    command = [*PYTEST, *LENIENT, TESTS, f"--junitxml={report}"]
    code, output = testing(place, backend).python(*command, seconds=BACKENDS[backend])
    place.log(output)
    if not report.exists():
        last = (output.strip().splitlines() or ["no output"])[-1]
        return [Outcome("all", f"pytest ended with {code}", "failed", last)]
    tests = list(read_report(report, backend))
    report.unlink()
    return tests


def read_report(report: Path, backend: str) -> Iterator[Outcome]:
    for case in Xml.parse(report).iter("testcase"):
        words = case.get("classname", "").split(".")
        op = named(words[-1].removeprefix("test_"), backend)
        for status, tag in (("failed", "failure"), ("failed", "error"), ("skipped", "skipped")):
            if (found := case.find(tag)) is not None:
                message = (found.get("message") or "").strip().splitlines() or [""]
                yield Outcome(op, case.get("name", ""), status, message[0])
                break
        else:
            yield Outcome(op, case.get("name", ""), "passed")


def green_ops(tests: list[Outcome]) -> set[str]:
    """Ops with a test that passed and none that failed."""
    red = {test.op for test in tests if test.status == "failed"}
    return {test.op for test in tests if test.status == "passed"} - red


def sanitize(place: Place, seconds: float) -> Iterator[str]:
    """compute-sanitizer over the short list, one line for each tool."""
    for backend, tool in [(b, tool) for b, tools in SANITIZERS.items() for tool in tools]:
        name = named(tool, backend)
        if place.rehearses:
            yield f"{name}: not run, there is no GPU to check"
            continue
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        code, output = testing(place, backend).call(
            [*command, *PYTEST, *LENIENT, TESTS, "-m", "sanitizer"], seconds=seconds
        )
        place.log(output)
        last = (output.strip().splitlines() or ["no output"])[-1]
        yield f"{name}: {'clean' if code == 0 else f'red ({last})'}"
