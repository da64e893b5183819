"""A training step in a CUDA graph: the eager steps' bits, and a mask of its own in each replay."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from gpu.placed import BACKEND, forced, placed
from kernels.trained_block import KINDS, block, stepping, trained
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.testing.cases import LinearCase, linear_problem

STEPS = 3
DROPPING = LinearCase(33, 100, 320, rank=16, dropout=0.25)


@pytest.fixture(autouse=True)
def only_where_there_is_a_kernel() -> None:
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU (tests/kernels/test_capture.py)")
    if BACKEND != "triton":
        pytest.skip(f"{BACKEND} has no gradients of qlora_linear")


def captured(call: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """The graph of a call, after one on a side stream that made tables and states."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step(device: str, kind: str, bits: int):
    """Forward, backward and optimizer, masks included: torch's generator goes on in each replay."""
    losses: list[list[torch.Tensor]] = [[], []]
    states = []
    for replays in (False, True):
        step, parameters = stepping(kind, device, bits)
        with forced():
            if replays:
                graph, loss = captured(step)
            else:
                step()
            torch.manual_seed(11)
            for _ in range(STEPS):
                if replays:
                    graph.replay()
                else:
                    loss = step()
                losses[replays].append(loss.clone())
        states.append([parameter.detach().clone() for parameter in parameters])
    assert torch.equal(*(torch.stack(each) for each in losses))
    assert all(map(torch.equal, *states))


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
def test_each_replay_draws_its_own_mask(device: str, dropout_on: str):
    """And it is the mask of the seed that was drawn: a call with that seed gives the same bits."""
    case = replace(DROPPING, dropout_on=dropout_on)
    problem = placed(linear_problem(case, torch.bfloat16), device)
    seed = torch.zeros((), dtype=torch.int64, device=device)

    def call() -> torch.Tensor:
        seed.copy_(torch.randint(2**62, (), dtype=torch.int64, device=device))
        return qk.qlora_linear(problem.x, problem.q, problem.adapter, seed=seed)

    seeds, outputs = [], []
    with forced(), torch.no_grad():
        graph, y = captured(call)
        for _ in range(STEPS):
            graph.replay()
            seeds.append(int(seed))
            outputs.append(y.clone())
            again = qk.qlora_linear(problem.x, problem.q, problem.adapter, seed=seeds[-1])
            assert torch.equal(outputs[-1], again)
        shape = (case.m, case.rank if dropout_on == "rank" else case.k)
        masks = [qk.dropout_mask(drawn, shape, case.dropout) for drawn in seeds]
    assert len(set(seeds)) == STEPS
    assert not any(torch.equal(masks[0], mask) for mask in masks[1:])
    assert not any(torch.equal(outputs[0], other) for other in outputs[1:])


def test_a_step_of_half_precision(device: str):
    """float16 has no range for a small scale: what its gradient needs is made again, unasked."""
    module = block("dora", device)
    x = torch.randn(8, 64, device=device, dtype=torch.float16)

    def gradients() -> torch.Tensor:
        found = torch.autograd.grad(module(x).float().square().sum(), trained(module))
        return torch.cat([gradient.flatten() for gradient in found])

    with forced():
        eager = gradients()
        graph, replayed = captured(gradients)
        graph.replay()
    torch.testing.assert_close(replayed, eager)
