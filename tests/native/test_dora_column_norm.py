"""The norm's kernel on every instruction set: the error rule, and not a byte beside the output."""

import torch

from native.guarded import guarded
from ops.test_dora_column_norm import ADAPTED, judge
from qlora_kernels import native
from qlora_kernels.testing.cases import LinearCase, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

# Ranks that are several groups and a rest, or panels; rows of several panels.
CASES = (
    *ADAPTED,
    LinearCase(1, 37, 900, rank=19),
    LinearCase(1, 9, 57, rank=33, format="int8"),
    LinearCase(1, 20, 64, rank=400),
)


def test_error_rule(isa: str):
    rule = ErrorRule(torch.float32)
    for case in CASES:
        problem = linear_problem(case, torch.float32)
        judge(rule, case, problem.q, problem.adapter)
    rule.check()


def test_the_norm_stays_inside_its_memory(isa: str):
    for case in CASES:
        problem = linear_problem(case, torch.float32)
        with guarded() as memory:
            norm = memory.empty((case.n,), offset=1)
            native.cpu().dora_column_norm(native.weight(problem.q), problem.adapter, norm, 3)
            assert norm.isfinite().all(), f"{case}: unwritten, or from beyond"
