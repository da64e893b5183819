"""One step of AdamW over every kind of segment: the bits of the reference."""

from dataclasses import fields, replace

import torch

import qlora_kernels as qk
from native.guarded import guarded
from native.test_adamw import DTYPES, HYPER, SIZES, copied, segment
from qlora_kernels.ops.adamw import Gate, adamw_step

SCALED = Gate(torch.tensor(1.0), torch.tensor(0.37), torch.tensor(0.0))


def test_the_bits_of_the_reference_in_one_launch(cuda: None):
    """All dtypes, states and masters, off their alignment and on it, tails and an empty one."""
    with guarded() as memory:
        segments, gradients, hyper = [], [], []
        for dtype in DTYPES:
            for bits in (32, 8):
                for master in (False, True) if dtype != torch.float32 else (False,):
                    for i, size in enumerate(SIZES):
                        made = segment(size, dtype, bits, master, memory)
                        segments.append(copied(made) if i % 2 else made)
                        gradients.append((torch.randn(size) * 1e-2).to(DTYPES[i % 3]))
                        hyper.append(HYPER[(i + bits) % 2])
        expected = [copied(s) for s in segments]
        adamw_step(segments, gradients, hyper, SCALED)
        with qk.use_backend("reference"):
            adamw_step(expected, gradients, hyper, SCALED)
    for ours, theirs in zip(segments, expected, strict=True):
        for field in fields(ours):
            tensor = getattr(ours, field.name)
            if tensor is not None:
                assert torch.equal(tensor, getattr(theirs, field.name)), (field.name, ours)


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
