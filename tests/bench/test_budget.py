"""Short of time: what would take longer than what is left waits, and slow peers are bounded."""

from math import inf

from bench.kernels.budget import Budget
from bench.kernels.case import Case
from bench.kernels.pace import Effort, Pace

THRIFTY = Effort(min_rounds=3, once=2.0, slowest=20.0)


def case(m: int) -> Case:
    return Case("qlora_linear", "64x64", 64, 64, m, "fp32")


def pace(*seconds: tuple[int, float]) -> Pace:
    made = Pace()
    for m, each in seconds:
        made.note(case(m), "torch", each)
    return made


def test_many_rows_are_foretold_by_fewer():
    known = pace((1, 1.0), (8, 1.0), (32, 4.0))
    assert known.expected(case(32), "torch") == 4.0
    assert known.expected(case(128), "torch") == 4.0 + 96 * 3.0 / 24
    assert known.expected(case(16), "torch") == 1.0, "what does not grow with the rows stays"
    assert known.expected(case(8), "peft") is None
    assert pace((1, 1.0)).expected(case(8), "torch") is None, "one point is no line"


def test_slow_peers_are_left_out_but_for_those_that_were_timed():
    known = pace((1, 1.0), (8, 8.0), (32, 32.0))
    assert known.refusal(case(128), "torch", inf) is None
    assert "about 128 s" in (known.refusal(case(128), "torch", 20.0) or "")
    assert known.refusal(case(32), "torch", 20.0) is None, "each run has the same peers"
    assert known.refusal(case(2048), "peft", 20.0) is None, "nothing is known of it"


def test_dear_cases_wait_for_a_longer_call():
    budget = Budget(30, pace((1, 1.0), (8, 1.0), (32, 13.0)))
    assert budget.refusal(case(8), ["torch"], THRIFTY) is None
    assert budget.refusal(case(32), ["torch"], THRIFTY) is None, "it is called once"
    assert "about 52 s" in (budget.refusal(case(32), ["torch"], Effort(min_rounds=3)) or "")
    assert budget.refusal(case(128), ["torch"], THRIFTY) is None, "it is left out"
    assert 0 < budget.per_contender(2, 3, most=100) <= 5
    assert budget.per_contender(2, 3, most=1) == 1


def test_no_case_starts_after_the_end():
    assert "0 s are left" in (Budget(0, Pace()).refusal(case(1), ["torch"], THRIFTY) or "")
