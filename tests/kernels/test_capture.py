"""What a CUDA graph forbids, found without one: a step that asks for values, or brings its own.

The whole training step runs on the CPU, interpreted, with torch told that it is captured: whatever
reads a value back, or takes one from the process while it runs, would end a capture or freeze that
value into every replay. tests/gpu/test_capture.py captures the same step where there is a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import qlora_kernels as qk
from kernels.trained_block import KINDS, block, inputs, stepping
from qlora_kernels.gpu.availability import interpreting

FORBIDDEN = (
    *("_local_scalar_dense", "item", "equal", "is_nonzero"),  # read a value
    *("nonzero", "masked_select", "unique"),  # have a size that only values tell
    *("lift_fresh", "lift_fresh_copy"),  # copy a number of the process
)


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU, and notes each seed that is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        name = function._schema.name.removeprefix("aten::")
        assert name not in FORBIDDEN, f"a captured step calls {name}"
        self.seeds += name == "randint"
        return function(*arguments, **(named or {}))


@contextmanager
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoWaiting]:
    with monkeypatch.context() as patch, NoWaiting() as mode:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        yield mode


@pytest.fixture
def step_of(device: torch.device) -> Callable[[str], Callable[[], torch.Tensor]]:
    if not interpreting():
        pytest.skip("on a GPU tests/gpu/test_capture.py captures the step itself")
    return lambda kind: stepping(kind, device)[0]


@pytest.mark.parametrize("kind", ["dropout of the input", "dora", "dora with dropout"])
def test_a_captured_step_asks_for_nothing(
    step_of: Callable[[str], Callable[[], torch.Tensor]], kind: str, monkeypatch: pytest.MonkeyPatch
):
    step = step_of(kind)
    step()  # the warm-up, which makes tables and states
    with captured(monkeypatch) as mode:
        step()
    drops = KINDS[kind].dropout > 0
    # Drawn by torch's generator in each step, so that each replay of a graph draws its own.
    assert mode.seeds == (4 if drops else 0)


def test_what_asks_is_found(monkeypatch: pytest.MonkeyPatch):
    with captured(monkeypatch), pytest.raises(AssertionError, match="calls _local_scalar_dense"):
        torch.ones(3).sum().item()
    with captured(monkeypatch), pytest.raises(AssertionError, match="calls lift_fresh"):
        torch.tensor(3.0)


def test_a_captured_norm_is_not_kept(device: torch.device, monkeypatch: pytest.MonkeyPatch):
    """A replay changes the factors behind the process's back, and owns the memory of its norm."""
    module, (x, *_) = block("dora", device), inputs(device)
    module(x)
    kept = module.o_proj.column_norm._norm
    assert kept is not None
    with torch.no_grad():
        module.o_proj.lora_b.mul_(2.0)  # as a replay does
    stale = module(x)
    with monkeypatch.context() as patch:
        patch.setattr("qlora_kernels.nn.column_norm.capturing", lambda: True)
        fresh = module(x)
    assert module.o_proj.column_norm._norm is kept
    assert not torch.equal(stale, fresh)
    module.o_proj.column_norm.forget()
    assert torch.equal(module(x), fresh)
    with qk.use_backend("reference"):
        torch.testing.assert_close(module(x), fresh)
