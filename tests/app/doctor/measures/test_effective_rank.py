import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qlora_kernels as qk
from qlora.doctor.measures import effective_rank
from qlora_kernels.errors import InputError


def adapter(rank: int, k: int, n: int, seed: int = 0, scaling: float = 0.7) -> qk.Adapter:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, k, generator=generator), torch.randn(n, rank, generator=generator)
    return qk.Adapter(a, b, scaling)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_singular_values_are_those_of_the_dense_update(rank, k, n, seed):
    some = adapter(rank, k, n, seed)
    dense = torch.linalg.svdvals(some.scaling * some.b.double() @ some.a.double())
    sigma = effective_rank.of_adapter(some)
    assert len(sigma) == rank
    padded = torch.zeros(max(rank, len(dense)), dtype=torch.float64)
    padded[: len(dense)] = dense
    torch.testing.assert_close(sigma, padded[:rank], rtol=1e-12, atol=1e-12 * float(dense[0]))


def test_small_singular_values_survive():
    """A product of Gram matrices would lose what is 1e-10 of the largest."""
    a = torch.diag(torch.tensor([1.0, 1e-5])) @ torch.eye(2, 6)
    b = torch.eye(5, 2) @ torch.diag(torch.tensor([1.0, 1e-5]))
    sigma = effective_rank.of_adapter(qk.Adapter(a, b, 2.0))
    torch.testing.assert_close(
        sigma, torch.tensor([2.0, 2e-10], dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_equal_directions_count_fully_and_one_counts_one(rank):
    equal, one = torch.ones(rank), torch.eye(rank)[0]
    assert effective_rank.effective_rank(equal) == pytest.approx(rank)
    assert effective_rank.stable_rank(equal) == pytest.approx(rank)
    assert effective_rank.effective_rank(one) == effective_rank.stable_rank(one) == 1


def test_two_to_one():
    """Energies 4/5 and 1/5: exp(H) by hand, and 5/4."""
    sigma = torch.tensor([2.0, 1.0], dtype=torch.float64)
    by_hand = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert effective_rank.effective_rank(sigma) == pytest.approx(by_hand, rel=1e-12)
    assert effective_rank.stable_rank(sigma) == pytest.approx(1.25, rel=1e-12)


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"rslora": True, "targets": ("v_proj",)}])
def test_facts_of_a_run(run, changes):
    from qlora.doctor.subject import Subject

    subject = Subject.open(run(**changes))
    by_name = {fact.name: fact for fact in effective_rank.measure(subject)}
    assert by_name.keys() == {"effective_rank", "stable_rank"}
    for fact in by_name.values():
        assert fact.by_layer.keys() == subject.adapted.keys()
        assert all(1 / 4 <= share <= 1 for share in fact.by_layer.values())
    name, layer = next(iter(subject.adapted.items()))
    update = layer.scaling * layer.lora_b.detach().double() @ layer.lora_a.detach().double()
    dense = torch.linalg.svdvals(update)[:4]
    assert by_name["stable_rank"].by_layer[name] == pytest.approx(
        float(dense.square().sum() / dense[0] ** 2 / 4), rel=1e-9
    )


def test_updates_of_zero_have_no_rank(subject):
    with torch.no_grad():
        before = {n: m.lora_b.clone() for n, m in subject.adapted.items()}
        for layer in subject.adapted.values():
            layer.lora_b.zero_()
        try:
            with pytest.raises(InputError, match="should not all be zero, all 28 are"):
                effective_rank.measure(subject)
        finally:
            for name, layer in subject.adapted.items():
                layer.lora_b.copy_(before[name])
