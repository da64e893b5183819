"""A call that is made again and again into the same outputs: the bits of `qlora_linear_group`."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.ops import Linear, qlora_linear_group
from qlora_kernels.ops.qlora_linear.repeated import RepeatedGroup, refuses
from qlora_kernels.testing.cases import DORA_CASES, FLOAT_DTYPES, LINEAR_CASES, linear_problem

CASES = [replace(c, m=1) for c in (*LINEAR_CASES, *DORA_CASES) if not c.dropout]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@torch.inference_mode()  # outside of it the bias of DoRA is added after a rounding
def test_outputs_are_those_of_the_group(dtype, one_thread):
    for case in CASES:
        problems = [linear_problem(c, dtype) for c in (case, replace(case, n=case.n + 1))]
        linears = [Linear(p.q, p.adapter, p.bias) for p in problems]
        assert [refuses(linear, problems[0].x) for linear in linears] == [None, None]
        outputs = [torch.empty(1, p.q.shape[0], dtype=dtype) for p in problems]
        group = RepeatedGroup(linears, outputs)
        for x in (problems[0].x, problems[1].x):
            group(x)
            expected = qlora_linear_group(x, linears)
            assert all(map(torch.equal, outputs, expected)), str(case)


def test_it_reads_anew_where_tensors_lie(one_thread):
    problem = linear_problem(CASES[0], torch.float32)
    linear, y = Linear(problem.q, problem.adapter), torch.empty(1, problem.q.shape[0])
    group = RepeatedGroup([linear], [y])
    problem.adapter.b.data = 3 * problem.adapter.b
    group(problem.x)
    assert torch.equal(y, qlora_linear_group(problem.x, [linear])[0])


def test_refusals():
    problem = linear_problem(replace(CASES[0], bias=True), torch.float32)
    x, q, adapter = problem.x, problem.q, problem.adapter
    dense, transposed = qk.dequantize(q), adapter.a.T.contiguous().T
    refused = {
        "the adapter drops": (Linear(q, replace(adapter, dropout=0.1)), x),
        "the base weight is dense": (Linear(dense, adapter), x),
        "x is torch.float64": (Linear(q, adapter), x.double()),
        "a is torch.float64": (Linear(q, replace(adapter, a=adapter.a.double())), x),
        "x is on meta": (Linear(q, adapter), x.to("meta")),
        "a tensor is not": (Linear(q, replace(adapter, a=transposed)), x),
        "not a plain, contiguous one": (Linear(q, bias=problem.bias.double()), x),
    }
    for reason, (linear, like) in refused.items():
        assert reason in refuses(linear, like)
    with qk.use_backend("reference"):
        assert "another backend" in refuses(Linear(q, adapter), x)
