import pytest
import torch

from qlora.merge.kth_largest import kth_largest
from qlora.merge.layer import Layer


def layers(matrices: list[list[torch.Tensor]]) -> list[Layer]:
    """matrices[layer][adapter]."""
    return [Layer(str(n), (1.0,) * len(m), m) for n, m in enumerate(matrices)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [1e-9, 0.01, 0.2, 0.5, 0.999, 1.0])
def test_it_is_the_sorted_one(dtype, density):
    generator = torch.Generator().manual_seed(0)
    many = [
        [torch.randn(n, 7, dtype=dtype, generator=generator) * scale for scale in (1.0, 1e-30)]
        for n in (3, 50, 11)
    ]
    found = kth_largest(layers(many), density)
    for place, value in enumerate(found):
        everything = torch.cat([matrices[place].flatten() for matrices in many]).abs()
        k = max(1, int(density * len(everything)))
        assert value == everything.sort(descending=True).values[k - 1].item()


def test_zeros_subnormals_and_ties():
    values = torch.tensor([[0.0, -0.0, 1e-45, -1e-45, 2.0, -2.0, 2.0, 3.4e38]])
    found = [kth_largest(layers([[values]]), k / 8)[0] for k in range(1, 9)]
    assert found == values.abs().flatten().sort(descending=True).values.tolist()
