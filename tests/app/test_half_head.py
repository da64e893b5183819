"""A head from half the bytes: the same values to float32's own rounding, or the head as it was."""

import pytest
import torch
from torch import nn

from qlora.half_head import HalfHead, halve_head


def errors(model, x: torch.Tensor, bias: torch.Tensor | None) -> tuple[float, float]:
    """Relative to float64: of the halved head, and of float32."""
    head = model.get_output_embeddings()
    head.bias = None if bias is None else nn.Parameter(bias)
    plain = head(x)
    exact = nn.functional.linear(x.double(), head.weight.double())
    exact = exact if bias is None else exact + bias.double()
    assert halve_head(model) and isinstance(model.get_output_embeddings(), HalfHead)
    halved = model.get_output_embeddings()(x)
    return tuple(float((y - exact).norm() / exact.norm()) for y in (halved, plain))


@pytest.mark.parametrize("factor", [1.0, 2.0**-20, 2.0**12])
@pytest.mark.parametrize("has_bias", [False, True])
@torch.no_grad()
def test_it_rounds_as_float32_does(model, factor, has_bias):
    head = model.get_output_embeddings()
    head.weight.copy_(head.weight.bfloat16() * factor)
    bias = torch.randn(head.out_features) * factor if has_bias else None
    ours, plain = errors(model, torch.randn(2, 3, head.in_features), bias)
    assert ours <= 1.5 * plain


@pytest.mark.parametrize(
    "weight",
    [
        torch.full((8, 64), 1 / 3),
        torch.tensor([[2.0**15, 2.0**-30]]),
        torch.zeros(2, 2),
        torch.full((2, 2), 2.0**-118),  # the power of two would be infinite
        torch.full((2, 2), torch.inf),
        torch.full((2, 2), torch.nan),
    ],
)
def test_a_head_that_is_not_exact_stays(model, weight):
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(weight)
    assert not halve_head(model) and model.get_output_embeddings() is head


def test_a_head_of_16_bits_stays(model):
    head = model.bfloat16().get_output_embeddings()
    assert not halve_head(model) and model.get_output_embeddings() is head
