"""The rule that judges every kernel must itself catch what it is there for."""

import pytest
import torch

from qlora_kernels.testing.error_rule import ErrorRule

BF16 = torch.bfloat16
NUM_CASES = 12


def judge(change=lambda y: y, dtype: torch.dtype = BF16) -> None:
    """Plain torch's own matmul on seeded data, with its output changed."""
    rule = ErrorRule(dtype)
    for case in range(NUM_CASES):
        random = torch.Generator().manual_seed(case)
        x, w = torch.randn(2, 40, 40, generator=random).to(dtype)
        plain = x @ w
        rule.add(f"case {case}", "y", change(plain), plain, x.double() @ w.double())
    rule.check()


def test_plain_torch_passes():
    judge()


def test_a_scale_that_is_half_a_percent_off_fails():
    with pytest.raises(AssertionError, match="bias"):
        judge(lambda y: (y.float() * 1.005).to(y.dtype))


def test_twice_the_noise_fails():
    with pytest.raises(AssertionError, match="rms"):
        judge(lambda y: y + 2 * y.std() * torch.finfo(BF16).eps * torch.randn(y.shape).to(BF16))


def test_one_wrong_case_fails():
    """The bound of a single case, with none of the pool's mercy."""
    seen = []

    def spoil_the_third(y: torch.Tensor) -> torch.Tensor:
        seen.append(y)
        return y.roll(1) if len(seen) == 3 else y

    with pytest.raises(AssertionError, match="case 2 y: error"):
        judge(spoil_the_third)


def test_a_case_alone_has_its_own_bound_only():
    """There is nothing to pool, so half a percent is not seen, but a wrong case is."""
    random = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 40, 40, generator=random).to(BF16)
    plain, truth = x @ w, x.double() @ w.double()
    for ours, fine in ((plain * 1.005, True), (plain.roll(1), False)):
        rule = ErrorRule(BF16)
        rule.add("alone", "y", ours, plain, truth)
        if fine:
            rule.check_each()
        else:
            with pytest.raises(AssertionError, match="alone y: error"):
                rule.check_each()


def test_a_single_nan_fails():
    def spoil(y: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y[3, 4] = float("nan")
        return y

    with pytest.raises(AssertionError, match="error nan"):
        judge(spoil)


def test_what_should_be_zero_must_be():
    zero = torch.zeros(3)
    for ours, fine in ((zero, True), (zero + 1e-30, False), (zero * float("nan"), False)):
        rule = ErrorRule(torch.float32)
        rule.add("empty", "da", ours, zero, zero.double())
        rule.add("full", "y", zero + 1, zero + 1, zero.double() + 1)
        if fine:
            rule.check()
        else:
            with pytest.raises(AssertionError, match="should be zero, was not"):
                rule.check()


def test_nothing_to_judge_is_an_error():
    with pytest.raises(AssertionError, match="nothing to judge"):
        ErrorRule(BF16).check()
