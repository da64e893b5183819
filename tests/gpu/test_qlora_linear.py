"""`qlora_linear` and every gradient on the GPU against float64, by the error rule; twice alike."""

import pytest
import torch

from gpu.placed import forced, on_cpu, placed, some
from ops.few_rows import FEW
from ops.linear_formula import formula, in_float64, op, outputs
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.ops.qlora_linear.cuda_plan import MAX_ROWS
from qlora_kernels.testing.cases import FLOAT_DTYPES, LINEAR_CASES, LinearCase, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

# The sizes of real layers, where the launch rule chooses its other plans.
LARGE_CASES = (
    LinearCase(1, 4096, 4096, rank=16),
    LinearCase(8, 1024, 4096, rank=16, bias=True),
    LinearCase(48, 1536, 576, rank=16),
    LinearCase(300, 1024, 2048, rank=16, dropout=0.05),
    LinearCase(1100, 576, 1536, rank=64),
)
SMALL = LinearCase(33, 100, 320, rank=16, bias=True)
# Decoding: splits that meet, a group that is whole, and the most rows that share codes.
LARGE_FEW = (
    *(case for case in LARGE_CASES if case.m <= MAX_ROWS),
    LinearCase(1, 14336, 1024, rank=0),
    LinearCase(16, 4096, 4096, rank=16),
)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_forward_and_gradients(device: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in some(LINEAR_CASES + LARGE_CASES):
        problem = linear_problem(case, dtype)
        with forced():
            ours = on_cpu(outputs(op, placed(problem, device)))
        plain = outputs(formula, problem)
        for name, truth in outputs(formula, in_float64(problem)).items():
            rule.add(str(case), name, ours[name], plain[name], truth)
    rule.check()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("case", some((SMALL, *LARGE_CASES[2:]))[:2], ids=str)
def test_the_same_bits_twice(device: str, case: LinearCase, dtype: torch.dtype):
    problem = placed(linear_problem(case, dtype), device)
    with forced():
        first, second = outputs(op, problem), outputs(op, problem)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("case", (SMALL, *(c for c in LARGE_CASES[1:] if not c.dropout)), ids=str)
def test_a_captured_step_replays(device: str, case: LinearCase, dtype: torch.dtype):
    """Forward and every gradient in a CUDA graph: the bits of calls, over new activations."""
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU")
    problem = placed(linear_problem(case, dtype), device)
    with forced():
        outputs(op, problem)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = outputs(op, problem)
        problem.x.mul_(0.5)
        graph.replay()
        for name, tensor in outputs(op, problem).items():
            assert torch.equal(captured[name], tensor), name


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_few_rows(device: str, dtype: torch.dtype):
    """Forward alone, which is all that a backend for decoding has."""
    rule = ErrorRule(dtype)
    few = (case for case in LINEAR_CASES if case.m <= MAX_ROWS)
    for case in some((*FEW, *few, *LARGE_FEW)):
        problem = linear_problem(case, dtype)
        with forced(), torch.no_grad():
            y = op(placed(problem, device)).cpu()
        rule.add(str(case), "y", y, formula(problem), formula(in_float64(problem)))
    rule.check()


@pytest.mark.parametrize("case", LARGE_FEW, ids=str)
def test_few_rows_on_two_streams_and_in_a_graph(device: str, case: LinearCase):
    """Thread blocks that count each other never count those of another launch."""
    if interpreting():
        pytest.skip("there are no streams without a GPU")
    problem = placed(linear_problem(case, torch.bfloat16), device)
    streams = [torch.cuda.Stream() for _ in range(2)]
    with forced(), torch.no_grad():
        first, graph = op(problem), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = op(problem)
        torch.cuda.synchronize()
        results = [captured]
        for _ in range(20):
            for stream in streams:
                with torch.cuda.stream(stream):
                    results.append(op(problem))
            graph.replay()
        torch.cuda.synchronize()
    assert all(torch.equal(y, first) for y in results)


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_one_small_case_of_few_rows(device: str, dtype: torch.dtype):
    problem = placed(linear_problem(FEW[0], dtype), device)
    with forced(), torch.no_grad():
        assert op(problem).isfinite().all()


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    problem = placed(linear_problem(SMALL, torch.bfloat16), device)
    with forced():
        assert all(t.isfinite().all() for t in outputs(op, problem).values())
