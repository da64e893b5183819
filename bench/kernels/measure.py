"""One case: build, check, and only then time, ours and every peer in the same rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import qlora_kernels as qk
from bench.kernels import ops, peers
from bench.kernels.base.process import Base
from bench.kernels.case import DTYPES, Case, Contender, Cost
from bench.kernels.check import PASSED, check, qualify
from bench.kernels.clock import MIN_ROUNDS, Stopwatch, interleave, ratio, rested
from bench.kernels.environment import clocks_now
from bench.kernels.record import Record, described, described_roof, summary
from bench.kernels.roof import measure, stopwatch
from qlora_kernels.errors import InputError

OURS = "ours"


@dataclass(frozen=True)
class Session:
    """What is the same for every case of a run."""

    backend: str
    against: Mapping[str, ModuleType]
    device: str
    seconds: float
    cold_bytes: int  # of inputs to take turns over, so that no cache holds them; 0: one copy
    settings: Mapping[str, object]
    origin: Mapping[str, Any]
    base: Base | None = None  # another commit, in a process of its own
    min_rounds: int = MIN_ROUNDS


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
        watches = {c.name: stopwatch(c, session.device) for c in contest.contenders}
        if session.base:
            watches = _with_base(session.base, case, contest, watches, copies)
        for name, reason in contest.not_against.items():
            yield f"{case}: not against {name}: {reason}"
        ours, *others = interleave(list(watches.values()), session.seconds, session.min_rounds)
    clocks = clocks_now(session.device)
    roof = measure(case.dtype, session.device)
    roof_ms = roof.milliseconds(cost, op.TRAFFIC)
    settings = {**session.settings, "clocks": clocks, "roof": described_roof(roof)}
    rivals = list(watches)[1:]
    for name, timing in zip(rivals, others, strict=True) if rivals else [(None, None)]:
        yield Record(
            case.op,
            described(case),
            session.backend,
            name,
            **summary(ours),
            against_ms=timing and summary(timing),
            ratio=timing and ratio(ours, timing),
            num_bytes=cost.num_bytes,
            num_flops=cost.num_flops,
            roof_ms=roof_ms,
            share_of_roof=roof_ms / ours.median_ms,
            check=contest.checks[OURS],
            against_check=name and contest.checks[name],
            not_against=contest.not_against,
            settings=settings,
            origin=session.origin,
        )


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
    ours = Contender(OURS, tuple(op.ours(p) for p in problems))
    try:
        verdict = _qualified(case.op, case.dtype, session.backend, session.device)
        if verdict == PASSED:
            with qk.use_backend(session.backend):
                verdict = check(case, ours.calls[0], expected)
    except InputError as error:  # the backend refuses this call
        verdict = str(error)
    if verdict != PASSED:
        contest.red = verdict
        return contest
    contest.contenders.append(ours)
    contest.checks[OURS] = verdict
    for name, peer in session.against.items():
        reason = peers.refusal(peer, case.op)
        if reason is None:
            try:
                calls = tuple(getattr(peer, case.op)(p) for p in problems)
                contest.checks[name] = check(
                    case, calls[0], peers.truth(peer, problems[0], expected)
                )
                contest.contenders.append(Contender(name, calls))
            except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
                reason = f"cannot run it: {str(error).splitlines()[0]}"
        if reason is not None:
            contest.not_against[name] = reason
    return contest
