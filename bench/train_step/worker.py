"""A line's process, seen from the parent: it waits, without a processor, until it is its turn."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from bench.kernels.environment import wanted
from bench.train_step.lines import Line
from bench.train_step.problem import Problem
from qlora_kernels.errors import InputError

WAIT_POLICY = "OMP_WAIT_POLICY"
TAIL = 400  # characters of what a process said before it died


def environment(threads: int, allocator: str) -> dict[str, str]:
    """As the line's users have it: how threads wait is OpenMP's own choice.

    Where they sleep at once (PASSIVE), a peer of many small parallel regions takes a third longer
    for a step. By default they stop spinning within milliseconds, long before another's turn ends.
    """
    inherited = {name: value for name, value in os.environ.items() if name != WAIT_POLICY}
    return {**inherited, **wanted(threads, allocator), "PYTHONPATH": os.pathsep.join(sys.path)}


class Worker:
    """One method, loaded once; leaves with the block."""

    def __init__(self, line: Line, problem: Problem, threads: int) -> None:
        """Start it and wait until it is loaded."""
        self.line = line
        self._problems = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        settings = json.dumps(asdict(line.problem(problem)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.train_step.process", line.method, settings],
            env=environment(threads, line.allocator),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._problems,
            text=True,
        )
        self.loaded = self.take(0)

    def take(self, steps: int) -> dict[str, Any]:
        """A turn of so many steps."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(steps, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._problems.seek(0)
            said = " ".join(self._problems.read().split())[-TAIL:]
            raise InputError(f"train-step: {self.line.name} should take steps, died: {said}")
        turn: dict[str, Any] = json.loads(answer)
        return turn

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._problems.close()
