"""AdamW on the GPU: the reference's steps, its codes, and a step that a CUDA graph can hold."""

from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

import qlora_kernels as qk
from gpu.placed import BACKEND, forced
from kernels import test_adamw as kernels
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.ops.adamw import (
    Gate,
    Guard,
    adamw_step,
    gradient_gate,
    guarded_step,
    triton_kernel,
)
from qlora_kernels.testing.cases import FLOAT_DTYPES

# The sizes of adapters of a model of width 4096, 8-bit, beside small ones.
LARGE = ((16 * 4096, 8, True), (16 * 14336, 8, True), (100_003, 32, True), *kernels.SHAPES)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_steps(device: str, dtype: torch.dtype):
    with forced():
        kernels.test_steps_are_those_of_the_reference(torch.device(device), dtype)


def test_error_rule(device: str):
    with forced():
        kernels.test_the_error_rule_over_32_bit_states(torch.device(device))


def test_codes(device: str):
    with forced():
        kernels.test_codes_are_the_exact_nearest(torch.device(device))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_a_captured_step_replays(device: str, dtype: torch.dtype):
    """Three replays give the bits of three calls: nothing is copied to the GPU or waited for."""
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU")
    ours = kernels.segments(dtype, torch.device(device), LARGE)
    gradients, hyper = kernels.gradients_of(ours, 0), [kernels.HYPER] * len(ours)
    eager, replayed = kernels.copied(ours), kernels.copied(ours)

    def step(made: list) -> None:
        kernels.advance(made)
        adamw_step(made, gradients, hyper, gradient_gate(gradients, max_norm=1.0))

    with forced():
        for _ in range(4):
            step(eager)
        step(replayed)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(replayed)
        for _ in range(3):
            graph.replay()
    for one, other in zip(eager, replayed, strict=True):
        for name in kernels.FIELDS:
            a, b = getattr(one, name), getattr(other, name)
            assert a is None or torch.equal(a, b), name


def test_a_captured_update_replays_after_many_others(device: str):
    """The update alone, which a backend may have without the norm; its tables outlive the cache."""
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU")
    place = torch.device(device)
    ours, gate = kernels.segments(torch.bfloat16, place, LARGE), Gate.open(place)
    eager, replayed = kernels.copied(ours), kernels.copied(ours)
    gradients, hyper = kernels.gradients_of(ours, 0), [kernels.HYPER] * len(ours)

    def step(made: list) -> None:
        kernels.advance(made)
        adamw_step(made, gradients, hyper, gate)

    with forced():
        for _ in range(2):
            step(eager)
        step(replayed)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(replayed)
        other = kernels.copied(ours)
        for i in range(100):
            adamw_step(other, gradients, [kernels.HYPER._replace(lr=1e-3 * i)] * len(ours), gate)
        graph.replay()
    for one, another in zip(eager, replayed, strict=True):
        for name in kernels.FIELDS:
            a, b = getattr(one, name), getattr(another, name)
            assert a is None or torch.equal(a, b), name


def test_an_optimizer_step_waits_for_nothing(device: str):
    if interpreting():
        pytest.skip("there is nothing to wait for without a GPU")
    parameters = [torch.nn.Parameter(torch.randn(n, device=device)) for n in (64, 8192, 5000)]
    optimizer = qk.optim.AdamW(parameters, bits=8, max_gradient_norm=1.0)
    with forced():
        for _ in range(3):
            for p in parameters:
                p.grad = torch.randn_like(p)
            torch.cuda.set_sync_debug_mode("default" if not optimizer.state else "error")
            optimizer.step()
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("count", [3, 448])
def test_one_launch_updates_all(device: str, count: int, monkeypatch: pytest.MonkeyPatch):
    """However many tensors: one launch per pair of dtypes, and one per dtype of gradients."""
    if BACKEND != "triton":
        pytest.skip("it counts Triton's launches; the trace of a step has all")
    count = min(count, 12) if interpreting() else count
    launched: list[str] = []
    launch = triton_kernel.launch

    def counted(kernel: Any, *arguments: Any, **named: Any) -> None:
        launched.append(kernel.fn.__name__)
        launch(kernel, *arguments, **named)

    monkeypatch.setattr(triton_kernel, "launch", counted)
    optimizer = stepped_once(device, count)
    launched.clear()
    with forced():
        optimizer.step()
    assert sorted(launched) == ["adamw_kernel", "squares_kernel"]


def test_the_trace_of_a_step(device: str):
    """What the driver saw: one update, at most one sum, no wait and no copy to the host."""
    if interpreting():
        pytest.skip("there is no trace of kernels without a GPU")
    optimizer = stepped_once(device, 448)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        with torch.profiler.record_function("the step"), forced():
            optimizer.step()
        torch.cuda.synchronize()
    events = profile.events()
    (step,) = (e for e in events if e.name == "the step" and e.device_type == DeviceType.CPU)
    span = step.time_range
    calls = [
        e.name
        for e in events
        if e.device_type == DeviceType.CPU and span.start <= e.time_range.start <= span.end
    ]
    on_gpu = [e.name for e in events if e.device_type == DeviceType.CUDA and e.name != "the step"]
    assert sum("adamw_kernel" in name for name in on_gpu) == 1
    # A CUDA step sums the squares in its own launch.
    squares = [name for name in on_gpu if "squares_kernel" in name]
    assert len(squares) == (0 if BACKEND == "cuda" else 1)
    assert not [name for name in on_gpu if "DtoH" in name or "HtoD" in name]
    assert not [name for name in calls if "Synchronize" in name]


def test_a_captured_optimizer_step_replays(device: str):
    """The optimizer whole, clipping and counting with it; a bad gradient is skipped in a replay."""
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU")
    eager, replayed = stepped_once(device, 5), stepped_once(device, 5)
    theirs, ours = (o.param_groups[0]["params"] for o in (eager, replayed))
    graph = torch.cuda.CUDAGraph()
    with forced():
        with torch.cuda.graph(graph):
            replayed.step()
        for _ in range(3):
            eager.step()
            graph.replay()
        assert all(map(torch.equal, ours, theirs))
        ours[2].grad.fill_(float("nan"))
        for _ in range(2):
            graph.replay()
    assert all(map(torch.equal, ours, theirs))
    assert replayed.skipped_steps == 2


def stepped_once(device: str, count: int) -> qk.optim.AdamW:
    """An optimizer over tensors that all have states, and gradients that stay where they are."""
    random = torch.Generator(device).manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(4096 + 256 * (i % 3), generator=random, device=device))
        for i in range(count)
    ]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random, device=device)
    optimizer = qk.optim.AdamW(parameters, bits=8, max_gradient_norm=1.0)
    with forced():
        optimizer.step()
    return optimizer


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    ours = kernels.segments(torch.bfloat16, torch.device(device))
    kernels.advance(ours)
    with forced():
        gradients = kernels.gradients_of(ours, 0)
        hyper = [kernels.HYPER] * len(ours)
        adamw_step(ours, gradients, hyper, Gate.open(torch.device(device)))
        guarded_step(ours, gradients, hyper, Guard(max_norm=1.0))
    assert all(s.parameter.isfinite().all() for s in ours)
