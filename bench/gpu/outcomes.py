"""Outcomes of tests, written as they come: a run that is cut off keeps those it had.

As a plugin of pytest (`-p bench.gpu.outcomes`) it appends a line for each test to the file that
QLORA_OUTCOMES names.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "QLORA_OUTCOMES"
BACKEND = "QLORA_GPU_TESTS"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """One test, or one way of running them, as pytest reported it."""

    op: str
    name: str
    status: str
    message: str = ""


def named(op: str, backend: str) -> str:
    """An op of a backend, for people: Triton's is the plain one."""
    return op if backend == "triton" else f"{op} ({backend})"


def read(path: Path) -> Iterator[Outcome]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Outcome(**json.loads(line))


def append(path: Path, outcome: Outcome) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def pytest_runtest_logreport(report: Any) -> None:
    """A test's one line: what failed or skipped it in any phase, or that its call passed."""
    told = os.environ.get(FILE)
    if told is None or os.environ.get("PYTEST_XDIST_WORKER"):
        return  # of several processes the one that hears all of them writes
    if report.outcome == PASSED and report.when != "call":
        return
    file, _, name = report.nodeid.partition("::")
    op = Path(file).stem.removeprefix("test_")
    backend = os.environ.get(BACKEND, "triton")
    append(Path(told), Outcome(named(op, backend), name, report.outcome, _message(report)))


def _message(report: Any) -> str:
    if report.outcome == PASSED:
        return ""
    if report.outcome == SKIPPED and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return (text.strip().splitlines() or [""])[0]
