"""Problems on the device under test; truth and yardstick stay on the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.testing.cases import LinearProblem

NUM_REHEARSED = 3
BACKEND = os.environ.get("QLORA_GPU_TESTS", "triton")  # `make gpu` runs them for each


def some(cases: tuple[Any, ...]) -> tuple[Any, ...]:
    """All cases on a GPU, the first few where Python plays the GPU."""
    return cases[:NUM_REHEARSED] if interpreting() else cases


def placed(problem: LinearProblem, device: str) -> LinearProblem:
    adapter = problem.adapter
    if adapter is not None:
        moved = {
            name: None if (t := getattr(adapter, name)) is None else t.to(device)
            for name in ("a", "b", "magnitude")
        }
        adapter = replace(adapter, **moved)
    bias = None if problem.bias is None else problem.bias.to(device)
    return replace(
        problem,
        x=problem.x.to(device),
        q=problem.q.to(device),
        adapter=adapter,
        bias=bias,
        dy=problem.dy.to(device),
    )


def on_cpu(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t.cpu() for name, t in outputs.items()}


@contextmanager
def forced() -> Iterator[None]:
    """The backend under test, for the call of ours alone; a call that it refuses is skipped."""
    with qk.use_backend(BACKEND):
        try:
            yield
        except qk.InputError as error:
            if f"was refused by {BACKEND}: " not in str(error):
                raise
            pytest.skip(str(error))
