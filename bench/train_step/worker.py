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

TAIL = 400  # characters of what a process said before it died


class Worker:
    """One method, loaded once; leaves with the block."""

    def __init__(self, line: Line, problem: Problem, threads: int) -> None:
        """Start it and wait until it is loaded."""
        self.line = line
        self._problems = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        variables = wanted(threads, line.allocator) | {"OMP_WAIT_POLICY": "PASSIVE"}
        path = os.pathsep.join(sys.path)
        settings = json.dumps(asdict(line.problem(problem)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.train_step.process", line.method, settings],
            env={**os.environ, **variables, "PYTHONPATH": path},
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
