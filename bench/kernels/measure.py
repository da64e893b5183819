"""One case: build, check, and only then time, ours and every peer in the same rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import torch

import qlora_kernels as qk
from bench.kernels import ops, peers
from bench.kernels.base.process import Base
from bench.kernels.case import DTYPES, Case, Contender, Cost
from bench.kernels.check import PASSED, checked, qualify
from bench.kernels.clock import Stopwatch, Timing, interleave, milliseconds, rested
from bench.kernels.environment import clocks_now
from bench.kernels.pace import Effort, Pace
from bench.kernels.record import Record, described, described_roof
from bench.kernels.roof import measure, stopwatch
from bench.kernels.runs import run_of, summed
from qlora_kernels.errors import InputError

OURS = "ours"
FORETOLD = 1.5  # times what was expected


@dataclass(frozen=True)
class Session:
    """What is the same for every case of a run."""

    backend: str
    against: Mapping[str, ModuleType]
    device: str
    settings: Mapping[str, object]
    origin: Mapping[str, Any]
    effort: Effort = field(default_factory=Effort)
    cold_bytes: int = 0  # of inputs to take turns over, so that no cache holds them; 0: one copy
    base: Base | None = None  # another commit, in a process of its own
    pace: Pace = field(default_factory=Pace)


@dataclass
class Contest:
    """Who is fit to be timed on a case, what the checks said, and who was refused and why."""

    contenders: list[Contender] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    red: str | None = None  # why ours is not timed, so that nobody is
    not_against: dict[str, str] = field(default_factory=dict)  # peer: why it is not timed


def run_case(session: Session, case: Case) -> Iterator[Record | str]:
    """Records, and a line for each contender that was not timed."""
    op = ops.load(case.op)
    first = op.problem(case, session.device, 0)
    cost: Cost = op.cost(first)
    copies = max(1, -(-session.cold_bytes // cost.num_bytes))
    problems = [first, *(op.problem(case, session.device, i) for i in range(1, copies))]
    contest = prepare(session, op, problems)
    if contest.red:
        yield f"{case}: {session.backend} is red, not timed: {contest.red}"
        return
    with qk.use_backend(session.backend):
        timings = _timings(session, case, contest, copies)
    for name, reason in contest.not_against.items():
        yield f"{case}: not against {name}: {reason}"
    roof = measure(case.dtype, session.device)
    roof_ms = roof.milliseconds(cost, op.TRAFFIC)
    clocks = clocks_now(session.device)
    settings = {**session.settings, "clocks": clocks, "roof": described_roof(roof)}
    ours, *others = timings.items()
    for name, timing in others or [(None, None)]:
        run = run_of(ours[1], timing, roof_ms)
        yield Record(
            case.op,
            described(case),
            session.backend,
            name,
            **summed([run]),
            num_bytes=cost.num_bytes,
            num_flops=cost.num_flops,
            check=contest.checks[OURS],
            against_check=name and contest.checks[name],
            not_against=contest.not_against,
            settings=settings,
            origin=session.origin,
        )


def _timings(session: Session, case: Case, contest: Contest, copies: int) -> dict[str, Timing]:
    """Of all that is fit, ours first: in the same rounds, but for peers that are too slow."""
    once = {c.name: c for c in contest.contenders[1:] if c.checked_ms > 1e3 * session.effort.once}
    inside = [c for c in contest.contenders if c.name not in once]
    watches = {c.name: stopwatch(c, session.device) for c in inside}
    if session.base:
        watches = _with_base(session.base, case, contest, watches, copies)
    effort = session.effort
    found = interleave(list(watches.values()), effort.seconds, effort.min_rounds)
    timings = dict(zip(watches, found, strict=True))
    for name, contender in once.items():
        timings[name] = Timing((_once_ms(session.pace, case, contender),))
    for name, timing in timings.items():
        session.pace.note(case, name, 1e-3 * timing.median_ms)
    return {name: timings[name] for name in contest.checks if name in timings}


def _once_ms(pace: Pace, case: Case, contender: Contender) -> float:
    """The call that was checked, if fewer rows foretold it: a first one may load what it needs."""
    expected = pace.expected(case, contender.name)
    if expected is not None and contender.checked_ms < FORETOLD * 1e3 * expected:
        return contender.checked_ms
    with torch.set_grad_enabled(case.trains):
        return milliseconds(contender.calls[0])


def _with_base(
    base: Base, case: Case, contest: Contest, watches: dict[str, Stopwatch], copies: int
) -> dict[str, Stopwatch]:
    """Everyone rested, ours in a process like the base's, unless the base cannot run the case."""
    peer = base.revision.peer
    try:
        base.ours.prepare(case, copies)
        contest.checks[peer] = base.theirs.prepare(case, copies)
    except RuntimeError as error:
        contest.not_against[peer] = f"cannot run it: {error}"
        return watches
    others = {name: rested(watch) for name, watch in watches.items()}
    return {**others, OURS: base.ours.sample, peer: base.theirs.sample}


@cache
def _qualified(op_name: str, dtype: str, backend: str, device: str) -> str:
    """What the pooled rule says of a backend; once per run."""
    op = ops.load(op_name)
    problems = list(op.small_problems(DTYPES[dtype], device))
    with qk.use_backend(backend):
        outputs = [op.ours(p)() for p in problems]
    found = zip(problems, outputs, strict=True)
    answers = ((str(p.case), given, op.expected(p)) for p, given in found)
    return qualify(DTYPES[dtype], answers)


def prepare(session: Session, op: ModuleType, problems: Sequence[Any]) -> Contest:
    """Check ours first: if it is red nobody is timed. A peer that errs is timed, and it is said."""
    contest = Contest()
    case: Case = problems[0].case
    expected = op.expected(problems[0])
    calls = tuple(op.ours(p) for p in problems)
    try:
        verdict = _qualified(case.op, case.dtype, session.backend, session.device)
        if verdict == PASSED:
            with qk.use_backend(session.backend):
                verdict, ours_ms = checked(case, calls[0], expected)
    except InputError as error:  # the backend refuses this call
        verdict = str(error)
    if verdict != PASSED:
        contest.red = verdict
        return contest
    contest.contenders.append(Contender(OURS, calls, ours_ms, case.trains))
    contest.checks[OURS] = verdict
    for name, peer in session.against.items():
        slowest = session.effort.slowest
        reason = peers.refusal(peer, case.op) or session.pace.refusal(case, name, slowest)
        if reason is None:
            try:
                calls = tuple(getattr(peer, case.op)(p) for p in problems)
                truth = peers.truth(peer, problems[0], expected)
                contest.checks[name], first_ms = checked(case, calls[0], truth)
                contest.contenders.append(Contender(name, calls, first_ms, case.trains))
            except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
                reason = f"cannot run it: {str(error).splitlines()[0]}"
        if reason is not None:
            contest.not_against[name] = reason
    return contest
