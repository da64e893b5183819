"""The processes that run ours and the base: asked for a case, then for one sample a round.

Lines of JSON, a question and an answer each. Both run the same program over another library, so
that nothing else differs; their samples take turns, so that both meet the machine's moods; and
neither starts before the other's threads have stopped spinning (clock.rested).
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.kernels.base.tree import ROOT, Revision
from bench.kernels.case import Case
from bench.kernels.environment import unbound
from bench.kernels.record import described


@dataclass(frozen=True)
class Process:
    """One library at work; RuntimeError says what it cannot do."""

    process: "subprocess.Popen[str]"
    errors: IO[str]  # what it wrote to stderr

    def prepare(self, case: Case, copies: int) -> str:
        """What the check said."""
        answer = self._ask({"op": case.op, "case": described(case), "copies": copies})
        return str(answer["check"])

    def sample(self) -> float:
        """Milliseconds of one call, as a stopwatch."""
        return float(self._ask({"sample": True})["ms"])

    def end(self) -> None:
        self.process.communicate()
        self.errors.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"its process ended: {last}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@dataclass(frozen=True)
class Base:
    """A revision at work, and the tree at hand beside it in the same way."""

    revision: Revision
    ours: Process
    theirs: Process

    def end(self) -> None:
        self.ours.end()
        self.theirs.end()


def start(revision: Revision, tree: Path, backend: str, device: str) -> Base:
    ours, theirs = (_process(library, backend, device) for library in (ROOT, tree))
    return Base(revision, ours, theirs)


def _process(tree: Path, backend: str, device: str) -> Process:
    """This harness over that tree's library; without `-P` that of the working folder would win."""
    path = os.pathsep.join(map(str, (tree, ROOT, ROOT / "python")))
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
    with unbound():
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.kernels.base.child", str(tree), backend, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
    return Process(process, errors)
