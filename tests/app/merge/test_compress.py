import pytest
import torch

from qlora.merge.compress import EXACT_BELOW, compress
from qlora.merge.layer import Layer
from qlora.merge.rank import choose_rank
from qlora_kernels.errors import InputError

ONE = Layer("layer", (1.0,), [])


@pytest.mark.parametrize(
    ("rank", "energies", "chosen"),
    [
        ("2", [4.0, 3.0, 2.0, 1.0], 2),
        ("9", [4.0, 3.0, 2.0, 1.0], 4),
        ("full", [4.0, 3.0, 2.0, 0.0], 3),
        ("full", [1.0, 1e-16, 1e-16], 1),  # below what float32 factors resolve
        ("energy:0.7", [4.0, 3.0, 2.0, 1.0], 2),
        ("energy:0.71", [4.0, 3.0, 2.0, 1.0], 3),
        ("energy:1", [4.0, 3.0, 2.0, 1.0], 4),
        ("full", [0.0, 0.0], 1),
    ],
)
def test_the_rank(rank, energies, chosen):
    assert choose_rank(rank, energies) == chosen


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (600, 40), (40, 600), (7, 7)])
@pytest.mark.parametrize("rank", ["full", "3", "energy:0.9"])
def test_it_is_the_truncated_decomposition(shape, rank):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, generator=generator)
    found = compress(matrix, ONE, rank)
    values = torch.linalg.svdvals(matrix)
    best = values[: found.rank].square().sum() / values.square().sum()
    assert found.energy == pytest.approx(float(best), rel=1e-9)
    error = (matrix - found.left.double() @ found.right.double()).norm() / matrix.norm()
    assert found.error == pytest.approx(float(error), abs=1e-6)
    if rank == "energy:0.9":
        assert best >= 0.9 > float(values[: found.rank - 1].square().sum() / values.square().sum())


def test_the_randomised_one_is_as_good():
    """A matrix with a slowly falling spectrum: the energy lost beyond the best is below 1 %."""
    generator = torch.Generator().manual_seed(0)
    size, rank = EXACT_BELOW, 16
    u, _ = torch.linalg.qr(torch.randn(size, 64, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(size, 64, generator=generator))
    values = 1.0 / torch.arange(1, 65)
    matrix = u * values @ v.T
    found = compress(matrix, ONE, str(rank))
    best = float(values[:rank].square().sum() / values.square().sum())
    assert best * 0.99 <= found.energy <= best * (1 + 1e-5)
    error = (matrix - found.left @ found.right).norm() / matrix.norm()
    assert found.error == pytest.approx(float(error), rel=1e-2)


def test_zero_keeps_one_zero_direction():
    found = compress(torch.zeros(6, 4), ONE, "full")
    assert (found.rank, found.energy, found.error, found.norm) == (1, 1.0, 0.0, 0.0)
    assert not found.left.any() or not found.right.any()
    assert (found.left @ found.right).isfinite().all()


@pytest.mark.parametrize("text", ["0", "-1", "all", "energy", "energy:0", "energy:1.5", "1.5", ""])
def test_what_is_no_rank(text):
    from qlora.merge import MergeSpec

    with pytest.raises(InputError, match="rank should be a number from 1, full, or energy:X"):
        MergeSpec(rank=text)
