"""Run as a program: one method in a process of its own, which takes steps when it is told to.

    in, a line each    how many steps to take
    out, a line each   Turn as JSON, first of 0 steps: what loading and preparing left

The peak is that of the process since it was prepared; libraries and allocator included.
"""

import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import qlora_kernels as qk
from bench.planner.process import resident
from bench.train_step.energy import joules, spent
from bench.train_step.methods import METHODS, Way
from bench.train_step.problem import Problem, batches, device, load

MAX_NORM = 1.0  # as the Trainer and ours clip


@dataclass(frozen=True)
class Turn:
    """So many steps: wall seconds and loss of each; processor seconds of all, peak so far."""

    seconds: list[float]
    losses: list[float]
    cpu_seconds: float
    joules: float | None
    peak_bytes: int
    trained: int


class Training:
    """A prepared model, its optimizer and its data."""

    def __init__(self, way: Way, problem: Problem) -> None:
        torch.manual_seed(problem.seed)
        self._model = way.prepare(load(problem), problem).train()
        self._loss, self._batches = way.loss, batches(problem)
        trained = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        self._parameters = list(trained.values())
        is_full = not any("lora_" in name for name in trained)
        rate = problem.full_learning_rate if is_full else problem.learning_rate
        if way.lora_plus_ratio != 1:
            rate /= way.lora_plus_ratio**0.5
        groups = qk.nn.parameter_groups(trained, rate, way.lora_plus_ratio)
        self._optimizer = torch.optim.AdamW(groups, fused=True)

    @property
    def num_trained(self) -> int:
        return sum(parameter.numel() for parameter in self._parameters)

    def step(self) -> float:
        """One step; its loss."""
        loss = self._loss(self._model, next(self._batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()  # waits for a GPU

    def turn(self, count: int) -> Turn:
        """Take `count` steps."""
        seconds, losses = [], []
        energy, cpu = joules(), time.process_time()
        for _ in range(count):
            start = time.perf_counter()
            losses.append(self.step())
            seconds.append(time.perf_counter() - start)
        cpu = time.process_time() - cpu
        energy_spent = spent(energy, joules())
        return Turn(seconds, losses, cpu, energy_spent, peak(), self.num_trained)


def peak() -> int:
    """Bytes: of the GPU's allocator, or resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM:")


def count_peak_from_here() -> None:
    """Loading is another matter."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def main(words: Iterator[str], method: str, settings: dict[str, Any]) -> None:
    """Answers until the input ends."""
    training = Training(METHODS[method], Problem(**settings))
    count_peak_from_here()
    for word in words:
        print(json.dumps(asdict(training.turn(int(word)))), flush=True)


if __name__ == "__main__":
    main(iter(sys.stdin), sys.argv[1], json.loads(sys.argv[2]))
