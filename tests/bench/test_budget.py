"""A run with --minutes: cheap cases first, and none that would take longer than what is left."""

from bench.kernels.budget import Budget
from bench.kernels.case import Case


def case(m: int) -> Case:
    return Case("qlora_linear", "64x64", 64, 64, m, "fp32")


def test_cases_come_by_their_cost_and_dear_ones_are_refused():
    budget = Budget(60)
    assert [c.m for c in budget.ordered([case(8), case(1), case(2)])] == [1, 2, 8]
    assert budget.refusal(case(1)) is None, "nothing is known yet"
    budget.note(case(1), 50)
    assert budget.refusal(case(8)) is None, "the first one measured the roof"
    budget.note(case(1), 10)
    assert budget.refusal(case(2)) is None
    assert "would take about 80 s" in (budget.refusal(case(8)) or "")
    assert 0 < budget.per_contender(2, 3, most=100) <= 10
    assert budget.per_contender(2, 3, most=1) == 1


def test_no_case_starts_after_the_end():
    assert "0 s are left" in (Budget(0).refusal(case(1)) or "")
