"""Dropout masks: Random123's own numbers, the same on every backend, and where they fall."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from conftest import RUNNABLE
from ops.linear_formula import op
from qlora_kernels.ops.dropout_mask.reference import philox
from qlora_kernels.testing.cases import LinearCase, linear_problem

# counter, key -> words of Philox4x32-10: kat_vectors of Random123 (Salmon et al., SC 2011).
KNOWN_ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip
SEEDS = (0, 1, -1, 2**31, 2**32 + 5, 2**63 - 1, -(2**63))


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_numbers(counter: str, key: str, expected: str):
    low, high = words(key)
    seed = torch.tensor((high << 32 | low) - (high >> 31 << 64))
    output = philox(tuple(torch.tensor(word) for word in words(counter)), seed)
    assert [int(word) for word in output] == words(expected)


def test_the_mask_is_the_first_word_over_the_flat_index(backend: str):
    """Bracket the first word of counter 0 and key 0, which is published."""
    word = words(KNOWN_ANSWERS[0][2])[0]
    kept = qk.dropout_mask(0, (1,), word / 2**32)
    dropped = qk.dropout_mask(0, (1,), (word + 1) / 2**32)
    assert kept.item() > 0 and dropped.item() == 0


@pytest.mark.parametrize("p", [0.0, 2**-33, 0.05, 1 / 3, 0.5, 0.999, 1 - 2**-30])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_backend_makes_the_same_mask(seed: int, p: float):
    shape = (67, 33)
    masks = []
    for name in RUNNABLE:
        with qk.use_backend(name):
            masks.append(qk.dropout_mask(seed, shape, p))
    for mask in masks:
        assert torch.equal(mask, masks[0]) and mask.shape == shape
        assert mask.dtype == torch.float32
    index = torch.arange(67 * 33)
    zero = torch.zeros_like(index)
    first = philox((index, zero, zero, zero), torch.tensor(seed))[0]
    scale = 1 / (1 - torch.tensor(p, dtype=torch.float32))
    expected = torch.where(first >= int(p * 2**32), scale, 0.0)
    assert torch.equal(masks[0].flatten(), expected)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_share_that_is_kept_is_as_asked(backend: str, p: float):
    """Within five standard deviations of a binomial; seeds and rows are independent."""
    shape = (512, 512)
    masks = [qk.dropout_mask(seed, shape, p) > 0 for seed in (7, 8)]
    deviation = (p * (1 - p) / masks[0].numel()) ** 0.5
    for mask in masks:
        assert abs(mask.double().mean() - (1 - p)) < 5 * deviation
    both = (masks[0] & masks[1]).double().mean()
    assert abs(both - (1 - p) ** 2) < 5 * deviation
    shifted = (masks[0][1:] & masks[0][:-1]).double().mean()
    assert abs(shifted - (1 - p) ** 2) < 5 * deviation


def test_a_longer_mask_begins_with_the_shorter(backend: str):
    long = qk.dropout_mask(5, (40, 64), 0.3)
    for shape in ((10, 64), (3,), (0, 64), ()):
        short = qk.dropout_mask(5, shape, 0.3)
        assert torch.equal(short.flatten(), long.flatten()[: short.numel()])


def test_the_seed_may_be_a_tensor(backend: str):
    for seed in SEEDS:
        mask = qk.dropout_mask(torch.tensor(seed), (9, 9), 0.5)
        assert torch.equal(mask, qk.dropout_mask(seed, (9, 9), 0.5))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_is_below_one(p: float):
    with pytest.raises(qk.InputError, match=r"dropout_mask: p should be in \[0, 1\), was"):
        qk.dropout_mask(0, (2,), p)


@pytest.mark.parametrize(
    ("seed", "text"),
    [
        (2**63, "seed should be an integer of 64 bits, was 9223372036854775808"),
        (torch.tensor([1]), "seed should be an integer or torch.int64 [], was torch.int64 [1]"),
        (torch.tensor(1.0), "seed should be an integer or torch.int64 [], was torch.float32 []"),
    ],
)
def test_a_seed_has_64_bits(seed: int | torch.Tensor, text: str):
    with pytest.raises(qk.InputError) as refusal:
        qk.dropout_mask(seed, (2,), 0.5)
    assert str(refusal.value) == f"dropout_mask: {text}"
    with pytest.raises(qk.InputError) as refusal:
        qk.qlora_linear(PROBLEM.x, PROBLEM.q, PROBLEM.adapter, seed=seed)
    assert str(refusal.value) == f"qlora_linear: {text}"


PROBLEM = linear_problem(LinearCase(9, 20, 30, rank=4, dropout=0.4), torch.float32)


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
def test_the_default_seed_comes_from_torch_s_generator(backend: str, dropout_on: str):
    adapter = replace(PROBLEM.adapter, dropout_on=dropout_on)

    def draw() -> torch.Tensor:
        return qk.qlora_linear(PROBLEM.x, PROBLEM.q, adapter)

    torch.manual_seed(3)
    first, second = draw(), draw()
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)


def test_no_dropout_draws_nothing(backend: str):
    before = torch.get_rng_state()
    qk.qlora_linear(PROBLEM.x, PROBLEM.q, replace(PROBLEM.adapter, dropout=0.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_backward_uses_the_mask_of_forward(backend: str):
    """Where B sees a dropped value, its gradient is zero."""
    adapter = replace(PROBLEM.adapter, b=PROBLEM.adapter.b.requires_grad_())
    one_row = replace(PROBLEM, x=PROBLEM.x[:1], adapter=adapter, dy=PROBLEM.dy[:1])
    op(one_row).backward(one_row.dy)
    mask = qk.dropout_mask(PROBLEM.seed, (1, 4), 0.4)[0]
    assert 0 < mask.count_nonzero() < 4, "this seed should drop some and keep some"
    assert torch.equal(adapter.b.grad.any(dim=0), mask.bool())
