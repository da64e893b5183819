"""One AdamW step over many segments at once: the error rule, exact codes, and what stays put."""

from dataclasses import fields

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.formats.blockwise8 import encode, num_blocks, thresholds, zero_code
from qlora_kernels.ops.adamw import (
    Gate,
    Hyperparameters,
    Segment,
    adamw_step,
    gradient_gate,
    triton_kernel,
    triton_table,
)
from qlora_kernels.testing.cases import FLOAT_DTYPES
from qlora_kernels.testing.error_rule import ErrorRule

HYPER = Hyperparameters(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1)
# (size, bits, master): tails, sizes that are several programs, a lone value.
SHAPES = ((1, 32, False), (300, 8, True), (2049, 32, True), (4096, 8, False), (1024, 8, True))
FIELDS = tuple(field.name for field in fields(Segment))


def segments(dtype: torch.dtype, device: torch.device, shapes=SHAPES) -> list[Segment]:
    random = torch.Generator().manual_seed(len(shapes))
    made = []
    for size, bits, master in shapes:
        p = torch.randn(size, generator=random).to(dtype).to(device)
        states = [torch.zeros(size, device=device) for _ in range(2)]
        scales: list[torch.Tensor | None] = [None, None]
        if bits == 8:
            zeros = (zero_code(True), zero_code(False))
            states = [torch.full((size,), z, dtype=torch.uint8, device=device) for z in zeros]
            scales = [torch.zeros(num_blocks(size), device=device) for _ in range(2)]
        step = torch.zeros((), device=device)
        copy = p.float() if master and dtype != torch.float32 else None
        made.append(Segment(p, *states, step, *scales, copy))
    return made


def gradients_of(made: list[Segment], seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(s.parameter.shape, generator=random).to(s.parameter.dtype).to(s.device)
        for s in made
    ]


def copied(made: list[Segment]) -> list[Segment]:
    parts = ([getattr(s, name) for name in FIELDS] for s in made)
    return [Segment(*(None if t is None else t.clone() for t in each)) for each in parts]


def advance(made: list[Segment]) -> None:
    for segment in made:
        segment.step.add_(1)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_steps_are_those_of_the_reference(device: torch.device, dtype: torch.dtype):
    """Three steps: parameters and 32-bit states by float32's own rounding, codes a neighbour off
    at most, where a value lies on a threshold to the last bit."""
    ours = segments(dtype, device)
    theirs = copied(ours)
    for seed in range(3):
        gradients = gradients_of(ours, seed)
        gate = gradient_gate(gradients, max_norm=1.0)
        advance(ours), advance(theirs)
        adamw_step(ours, gradients, [HYPER] * len(ours), gate)
        with qk.use_backend("reference"):
            adamw_step(theirs, gradients, [HYPER] * len(ours), gate)
    for one, other in zip(ours, theirs, strict=True):
        for name in FIELDS:
            a, b = getattr(one, name), getattr(other, name)
            if a is not None and a.dtype == torch.uint8:
                off = (a.int() - b.int()).abs()
                assert off.max() <= 1 and off.float().mean() <= 0.01, name
            elif a is not None:
                torch.testing.assert_close(a, b)


def test_the_error_rule_over_32_bit_states(device: torch.device):
    """Truth is the formula in float64; the yardstick torch.optim.AdamW."""
    rule = ErrorRule(torch.float32)
    shapes = tuple((size, 32, False) for size in (7, 300, 2048, 2500))
    ours = segments(torch.float32, device, shapes)
    starts = [s.parameter.detach().cpu().clone() for s in ours]
    made = {torch.float32: [s.clone() for s in starts], torch.float64: [s.double() for s in starts]}
    h = HYPER
    peers = {
        dtype: torch.optim.AdamW(
            [p.requires_grad_() for p in ps], h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay
        )
        for dtype, ps in made.items()
    }
    for seed in range(4):
        gradients = gradients_of(ours, seed)
        advance(ours)
        adamw_step(ours, gradients, [h] * len(ours), Gate.open(device))
        for dtype, ps in made.items():
            for p, g in zip(ps, gradients, strict=True):
                p.grad = g.cpu().to(dtype)
            peers[dtype].step()
    for i, segment in enumerate(ours):
        plain, truth = (made[d][i].detach() - starts[i].to(d) for d in made)
        moved = segment.parameter.cpu().double() - starts[i].double()
        rule.add(str(shapes[i]), "p", moved, plain, truth)
    rule.check()


def test_codes_are_the_exact_nearest(device: torch.device):
    """Without momentum the states are g and g^2: their codes have one right answer."""
    (segment,) = segments(torch.float32, device, ((3000, 8, False),))
    g = torch.cat([torch.randn(2000) * 10.0 ** torch.randint(-6, 3, (2000,)), torch.zeros(1000)])
    g[1024:1279] = thresholds(torch.device("cpu"), True).float()  # ties, or the next to them
    g[1279] = 1.0
    advance([segment])
    hyper = HYPER._replace(beta1=0.0, beta2=0.0)
    adamw_step([segment], [g.to(device)], [hyper], Gate.open(device))
    for values, signed, codes, absmax in (
        (g, True, segment.exp_avg, segment.exp_avg_absmax),
        (g * g, False, segment.exp_avg_sq, segment.exp_avg_sq_absmax),
    ):
        expected = encode(values, signed)
        assert torch.equal(codes.cpu(), expected[0]) and torch.equal(absmax.cpu(), expected[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_gradient_that_is_not_finite_changes_nothing(device: torch.device, value: float):
    ours = segments(torch.bfloat16, device)
    before, gradients = copied(ours), gradients_of(ours, 0)
    gradients[2][2048] = value
    gate = gradient_gate(gradients)
    assert gate.skip != 0
    adamw_step(ours, gradients, [HYPER] * len(ours), gate)
    for one, other in zip(ours, before, strict=True):
        for name in FIELDS:
            assert getattr(one, name) is None or torch.equal(
                getattr(one, name), getattr(other, name)
            )


def test_the_norm_of_large_and_many_gradients(device: torch.device):
    gradients = [torch.full((5000,), 3e30, device=device), torch.ones(3, device=device)]
    norm = gradient_gate(gradients).norm.cpu()
    torch.testing.assert_close(norm, torch.tensor(3e30 * 5000**0.5))
    again = gradient_gate(gradients).norm.cpu()
    assert torch.equal(norm, again)


def test_mixed_dtypes_are_a_launch_each_and_tables_stay(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    ours = segments(torch.float32, device) + segments(torch.bfloat16, device)
    gradients = gradients_of(ours, 1)
    launches = []
    monkeypatch.setattr(
        triton_kernel, "launch", lambda kernel, *rest, **named: launches.append(rest)
    )
    for _ in range(2):
        adamw_step(ours, gradients, [HYPER] * len(ours), Gate.open(device))
    assert len(launches) == 4
    tables = [[id(t) for t in rest[2:6]] for rest in launches]
    assert tables[:2] == tables[2:]


def test_a_captured_step_needs_the_tensors_of_one_before(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    ours = segments(torch.float32, device)
    gradients = gradients_of(ours, 2)
    advance(ours)
    call = ours, gradients, [HYPER] * len(ours), Gate.open(device)
    adamw_step(*call)
    monkeypatch.setattr(triton_table, "capturing", lambda: True)
    adamw_step(*call)
    with pytest.raises(qk.InputError, match="a captured step should have the tensors"):
        adamw_step(ours, [g.clone() for g in gradients], *call[2:])
