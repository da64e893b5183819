"""The lines of an allocator in turn, round by round, so that the machine's moods hit all alike.

One allocator after the other: a raised one keeps its memory, and all processes must fit at once.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.train_step.agreement import Agreement, agreements
from bench.train_step.lines import Line
from bench.train_step.problem import Problem
from bench.train_step.worker import Worker

WARM_UP = 1  # step, of which only the loss counts: first touches, states of the optimizer
BASIS = "ours"


@dataclass(frozen=True)
class Rounds:
    """How often, and how many processors."""

    rounds: int
    steps: int  # of a line in a round
    threads: int


@dataclass
class Measured:
    """What a line's process reported; a list per round in `seconds`."""

    line: Line
    tokens_per_step: int
    seconds: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)  # of a round
    joules: list[float | None] = field(default_factory=list)
    peak_bytes: int = 0
    trained: int = 0

    def note(self, turn: Mapping[str, Any], timed: bool) -> None:
        """Take a turn in."""
        self.losses += turn["losses"]
        self.peak_bytes, self.trained = turn["peak_bytes"], turn["trained"]
        if timed:
            self.seconds.append(turn["seconds"])
            self.cpu_seconds.append(turn["cpu_seconds"])
            self.joules.append(turn["joules"])

    @property
    def round_seconds(self) -> list[float]:
        """A step's median in each round."""
        return [statistics.median(seconds) for seconds in self.seconds]

    @property
    def rates(self) -> list[float]:
        """Tokens a second, by round."""
        return [self.tokens_per_step / seconds for seconds in self.round_seconds]

    @property
    def joules_per_token(self) -> float | None:
        """None where the machine does not say."""
        known = [value for value in self.joules if value is not None]
        tokens = self.tokens_per_step * sum(map(len, self.seconds))
        return sum(known) / tokens if known and len(known) == len(self.joules) else None


def measure(
    chosen: Sequence[Line], problem: Problem, rounds: Rounds, say: Callable[[str], object]
) -> dict[str, Measured]:
    """By name; every line has taken the same steps on the same rows."""
    tokens = problem.rows * problem.tokens
    found = {line.name: Measured(line, tokens) for line in chosen}
    for allocator in dict.fromkeys(line.allocator for line in chosen):
        with ExitStack() as stack:
            workers = []
            for line in (line for line in chosen if line.allocator == allocator):
                worker = stack.enter_context(Worker(line, problem, rounds.threads))
                found[line.name].note(worker.take(WARM_UP), timed=False)
                say(f"{line.name}: loaded, first loss {found[line.name].losses[0]:.4f}")
                workers.append(worker)
            for number in range(rounds.rounds):
                for worker in workers:
                    found[worker.line.name].note(worker.take(rounds.steps), timed=True)
                say(f"round {number + 1} of {rounds.rounds}")
    return found


def basis_of(line: Line, found: Mapping[str, Measured]) -> Measured | None:
    """Ours, which ran in the same rounds: under the same allocator."""
    return found.get(Line(BASIS, line.allocator).name)


def judged(found: Mapping[str, Measured], dtype: str) -> list[Agreement]:
    """Each line against its method's twin; a line of other settings against its method's first."""
    twins = {}
    for name, measured in found.items():
        twin = measured.line.way.twin or measured.line.method
        if twin != name:
            twins[name] = twin
    losses = {name: measured.losses for name, measured in found.items()}
    return agreements(losses, twins, dtype)


def times_slower(measured: Measured, basis: Measured) -> float:
    """Median over the rounds of a line's step over that of `basis` in the same round."""
    pairs = zip(measured.round_seconds, basis.round_seconds, strict=True)
    return statistics.median(mine / other for mine, other in pairs)
