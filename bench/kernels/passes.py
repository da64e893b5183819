"""Passes over the cases, each of which gives every case one run, and what of them a call takes."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench.kernels import peers
from bench.kernels.budget import Budget
from bench.kernels.case import Case
from bench.kernels.kept import Kept
from bench.kernels.measure import OURS, Session, run_case

SHORT_ROUNDS = 3  # the fewest of a case where time is short, or where it has several runs


@dataclass(frozen=True)
class Limits:
    """runs: of each case, those of earlier calls included. minutes: of this call, or None."""

    runs: int = 1
    minutes: float | None = None


def timed(session: Session, cases: Sequence[Case], kept: Kept, limits: Limits) -> Iterator[str]:
    """Adds runs to what is kept, a whole pass after the other; lines say what was not timed."""
    done = {case: _num_runs(session, case, kept) for case in cases}
    left = [(n, case) for n in range(1, limits.runs + 1) for case in cases if done[case] < n]
    with _packages_left_alone():
        yield from _taken(session, left, kept, limits.minutes)


def _taken(
    session: Session, left: Sequence[tuple[int, Case]], kept: Kept, minutes: float | None
) -> Iterator[str]:
    budget = Budget(60 * minutes, session.pace) if minutes else None
    names = [OURS, *session.against]
    late: list[Case] = []  # would not fit into what is left
    for index, (number, case) in enumerate(left):
        run_session = session
        if budget:
            if not budget.left():
                late += [case for _, case in left[index:]]
                break
            if refusal := budget.refusal(case, names, session.effort):
                late.append(case)
                yield f"{case}, run {number}: {refusal}"
                continue
            seconds = budget.per_contender(len(left) - index, len(names), session.effort.seconds)
            run_session = replace(session, effort=replace(session.effort, seconds=seconds))
        for result in run_case(run_session, case):
            if isinstance(result, str):
                yield result
            else:
                kept.add(result)
        kept.write()
    if late:
        yield f"{len(late)} of {len(left)} were not timed for want of time: --resume goes on"


@contextmanager
def _packages_left_alone() -> Iterator[None]:
    """No round looks through the peers' packages for garbage, which takes longer than a case."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _num_runs(session: Session, case: Case, kept: Kept) -> int:
    """Of a case with every peer that is fit for it: more may be, since an earlier call."""
    slowest = session.effort.slowest
    fit = [
        name
        for name, peer in session.against.items()
        if not peers.refusal(peer, case.op) and not session.pace.refusal(case, name, slowest)
    ]
    return kept.num_runs(case, session.backend, session.settings, fit)
