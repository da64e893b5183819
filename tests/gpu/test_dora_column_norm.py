"""DoRA's norms on the GPU against the dense sum in float64, by the error rule."""

import pytest
import torch

import qlora_kernels as qk
from gpu.placed import forced, placed, some
from ops.test_dora_column_norm import ADAPTED, dense
from qlora_kernels.testing.cases import LinearCase, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

CASES = some((*ADAPTED, LinearCase(1, 1024, 4096, rank=16)))


def test_error_rule(device: str):
    rule = ErrorRule(torch.float32)
    for case in CASES:
        problem = linear_problem(case, torch.float32)
        there = placed(problem, device)
        with forced():
            ours = qk.dora_column_norm(there.q, there.adapter).cpu()
        plain, truth = (dense(problem.q, problem.adapter, d) for d in (torch.float32, torch.double))
        rule.add(str(case), "norm", ours, plain, truth)
    rule.check()


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    there = placed(linear_problem(ADAPTED[1], torch.float32), device)
    with forced():
        assert qk.dora_column_norm(there.q, there.adapter).isfinite().all()
