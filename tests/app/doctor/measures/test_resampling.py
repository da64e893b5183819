"""Intervals cover as often as they say, tests are as rarely wrong as they say."""

import pytest
import torch

from qlora.doctor.resampling import bootstrap_totals, interval, probability, subset_totals


def test_totals_of_a_bootstrap_have_the_right_size_and_spread():
    sums = torch.stack([torch.arange(40.0), torch.ones(40)], dim=1)
    drawn = bootstrap_totals(sums, seed=1, draws=4000)
    assert (drawn[:, 1] == 40).all()
    means = drawn[:, 0] / 40
    assert means.mean() == pytest.approx(19.5, abs=4 * 11.54 / 40**0.5 / 4000**0.5)
    assert means.std() == pytest.approx(11.54 / 40**0.5, rel=0.05)
    assert torch.equal(drawn, bootstrap_totals(sums, seed=1, draws=4000))


def test_an_interval_covers_the_truth_in_95_percent():
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for seed in range(300):
        sums = torch.randn(60, 1, generator=generator) + 1
        low, high = interval(bootstrap_totals(sums, seed, draws=400)[:, 0] / 60, 60)
        covered += low <= 1 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_handful_has_no_interval():
    assert interval(torch.randn(100), 4) == (None, None)


def test_subsets_are_without_replacement():
    sums = 2.0 ** torch.arange(10)[:, None]
    drawn = subset_totals(sums, 3, seed=0, draws=200)
    bits = {bin(int(total)).count("1") for total in drawn[:, 0]}
    assert bits == {3}
    assert len(drawn.unique()) > 80  # of the 120 there are


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.01, 0.11), (1.0, 0.9, 1.0)])
def test_a_permutation_test_rejects_as_often_as_it_should(shift, least, most):
    generator = torch.Generator().manual_seed(3)
    rejected = 0
    for seed in range(200):
        values = torch.randn(50, 1, generator=generator, dtype=torch.float64)
        values[:20] += shift
        first = subset_totals(values, 20, seed, draws=300)[:, 0]
        drawn = first / 20 - (values.sum() - first) / 30
        observed = float(values[:20].mean() - values[20:].mean())
        rejected += probability(abs(observed), drawn.abs()) <= 0.05
    assert least <= rejected / 200 <= most


def test_a_probability_is_never_zero():
    assert probability(5.0, torch.zeros(99)) == 0.01
    assert probability(0.0, torch.zeros(99)) == 1.0
