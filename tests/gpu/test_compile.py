"""Compiled by Inductor on the GPU, in one graph, with the backend under test forced."""

from collections.abc import Iterator

import pytest
import torch

from gpu.placed import BACKEND, forced
from kernels import test_compile as compiling
from qlora_kernels.gpu.availability import interpreting


@pytest.fixture(autouse=True)
def only_where_there_is_a_kernel() -> None:
    """A training step needs gradients, which Triton alone has on a GPU."""
    if interpreting():
        pytest.skip("tests/kernels/test_compile.py does the same without a GPU")
    if BACKEND != "triton":
        pytest.skip(f"{BACKEND} has no gradients of qlora_linear")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("call", compiling.CALLS)
def test_opcheck(device: str, call: str):
    with forced():
        compiling.test_opcheck(torch.device(device), call)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("kind", compiling.KINDS)
def test_a_block_is_one_graph(device: str, kind: str):
    with forced():
        compiling.test_a_block_is_one_graph(torch.device(device), kind)
