"""One step of AdamW over every kind of segment: the bits of the reference."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

import qlora_kernels as qk
from native.guarded import Guarded, guarded
from native.test_adamw import DTYPES, HYPER, SIZES, copied, segment
from qlora_kernels.formats.blockwise8 import thresholds
from qlora_kernels.gpu import cuda_module
from qlora_kernels.ops.adamw import Gate, Guard, Segment, adamw_step, gradient_gate, guarded_step
from qlora_kernels.ops.adamw.cuda_codes import cells

SCALED = Gate(torch.tensor(1.0), torch.tensor(0.37), torch.tensor(0.0))


def of_all_kinds(memory: Guarded) -> tuple[list[Segment], list[torch.Tensor], list[Any]]:
    """All dtypes, states and masters, off their alignment and on it, tails and an empty one."""
    segments, gradients, hyper = [], [], []
    for dtype in DTYPES:
        for bits in (32, 8):
            for master in (False, True) if dtype != torch.float32 else (False,):
                for i, size in enumerate(SIZES):
                    made = segment(size, dtype, bits, master, memory)
                    segments.append(copied(made) if i % 2 else made)
                    gradients.append((torch.randn(size) * 1e-2).to(DTYPES[i % 3]))
                    hyper.append(HYPER[(i + bits) % 2])
                # Whole aligned blocks and a tail, of gradients of the parameter's type.
                segments.append(copied(segment(2150, dtype, bits, master, memory)))
                gradients.append((torch.randn(2150) * 1e-2).to(dtype))
                hyper.append(HYPER[bits % 2])
    return segments, gradients, hyper


def assert_same(ours: list[Segment], theirs: list[Segment]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for field in fields(one):
            tensor = getattr(one, field.name)
            if tensor is not None:
                assert torch.equal(tensor, getattr(other, field.name)), (field.name, one)


def test_the_bits_of_the_reference_in_one_launch(cuda: None):
    with guarded() as memory:
        segments, gradients, hyper = of_all_kinds(memory)
        expected = [copied(s) for s in segments]
        adamw_step(segments, gradients, hyper, SCALED)
        with qk.use_backend("reference"):
            adamw_step(expected, gradients, hyper, SCALED)
        assert_same(segments, expected)


GUARDS: dict[str, Callable[[], Guard]] = {
    "checked": Guard,
    "clipped": lambda: Guard(0.5),
    "not clipped": lambda: Guard(1e6),
    "scaled": lambda: Guard(0.5, torch.tensor([1024.0]), torch.tensor([0.0])),
    "found inf": lambda: Guard(None, torch.tensor([1024.0]), torch.tensor([1.0])),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guarded_step_is_the_references_in_one_launch(
    cuda: None, kernels: Any, monkeypatch: pytest.MonkeyPatch, guard: str
):
    """The norm, what follows from it, the step and its count, twice; thread blocks that meet."""
    launches: list[int] = []
    with guarded() as memory:
        segments, gradients, hyper = of_all_kinds(memory)
        expected = [copied(s) for s in segments]
        recorded = Recorded(kernels, launches)
        loaded = cuda_module.Loaded(recorded, "cpu", None)
        monkeypatch.setattr(cuda_module, "loaded", lambda: loaded)
        for _ in range(2):
            ours = guarded_step(segments, gradients, hyper, GUARDS[guard]())
            with qk.use_backend("reference"):
                theirs = guarded_step(expected, gradients, hyper, GUARDS[guard]())
            assert torch.equal(torch.stack(ours), torch.stack(theirs)), (ours, theirs)
        assert_same(segments, expected)
    assert launches == [len(segments)] * 2
    assert segments[0].step == (3 if guard == "found inf" else 5)


class Recorded:
    """The module, and how many segments each of its launches of AdamW had."""

    def __init__(self, module: Any, launches: list[int]) -> None:
        self._module, self._launches = module, launches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def adamw_step(self, tables: list[int], count: int, *others: Any) -> None:
        self._launches.append(count)
        self._module.adamw_step(tables, count, *others)


def test_the_norm_alone(cuda: None):
    """What a step in parts is guarded by: paged states, shards."""
    with guarded() as memory:
        _, gradients, _ = of_all_kinds(memory)
    ours = gradient_gate(gradients, 0.5)
    with qk.use_backend("reference"):
        theirs = gradient_gate(gradients, 0.5)
    assert torch.equal(torch.stack(ours), torch.stack(theirs))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_gradient_anywhere_stops_all_of_a_guarded_step(cuda: None, bad: float):
    with guarded() as memory:
        segments, gradients, hyper = of_all_kinds(memory)
        before = [copied(s) for s in segments]
        gradients[-2][-1] = bad
        assert guarded_step(segments, gradients, hyper, Guard(1.0)).skip == 1
        assert_same(segments, before)


def test_squares_beyond_float32_are_finite(cuda: None):
    """Gradients of 1e30: their squares are not float32's, their norm is; it is clipped."""
    with guarded() as memory:
        made = segment(600, torch.float32, 32, False, memory)
        gate = guarded_step([made], [torch.full((600,), 1e30)], [HYPER[0]], Guard(1.0))
    assert gate.skip == 0 and gate.norm == torch.tensor(600**0.5 * 1e30)


def test_a_cell_has_one_threshold_at_most(cuda: None):
    """And the two look-ups find the code of every float at and beside each of them."""
    for signed in (True, False):
        exact = thresholds(torch.device("cpu"), signed)
        low, high = (torch.bucketize(edge.double(), exact) for edge in cells(signed))
        assert ((high - low) <= 1).all()


def test_a_skipped_step_changes_nothing(cuda: None):
    with guarded() as memory:
        made = segment(600, torch.bfloat16, 8, True, memory)
        before = copied(made)
        skipping = SCALED._replace(skip=torch.tensor(1.0))
        adamw_step([made], [torch.full((600,), torch.nan)], [HYPER[0]], skipping)
        for field in fields(made):
            tensor = getattr(made, field.name)
            assert tensor is None or torch.equal(tensor, getattr(before, field.name)), field.name


def test_a_block_of_tiny_moments_is_stored_as_zeros(cuda: None):
    """Their reciprocal would be infinite."""
    with guarded() as memory:
        made = segment(256, torch.float32, 8, False, memory)
        quiet = replace(
            made,
            exp_avg_absmax=torch.full((1,), 1e-39),
            exp_avg_sq_absmax=torch.full((1,), 1e-39),
        )
        other = copied(quiet)
        adamw_step([quiet], [torch.zeros(256)], [HYPER[0]], SCALED)
        with qk.use_backend("reference"):
            adamw_step([other], [torch.zeros(256)], [HYPER[0]], SCALED)
    assert quiet.exp_avg_absmax.item() == 0
    assert torch.equal(quiet.exp_avg, other.exp_avg)
    assert torch.equal(quiet.exp_avg_sq, other.exp_avg_sq)
