"""Few rows of 16-bit values are multiplied as whole numbers, but for those that none stand for."""

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.testing.error_rule import ErrorRule

K = 192  # three blocks of codes
NAN = float("nan")


def product(x: torch.Tensor, q: qk.QuantizedTensor, backend: str = "cpu") -> torch.Tensor:
    with qk.use_backend(backend):
        return qk.qlora_linear(x, q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("format", ["nf4", "fp4", "nf4-tuned", "int8"])
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_every_way_obeys_the_error_rule(isa: str, dtype: torch.dtype, format: str, block_size: int):
    """One large value per row leaves few bits to its block, and the others their own."""
    rule = ErrorRule(dtype)
    q = qk.quantize(torch.randn(160, K), format, block_size=block_size)
    for m in (1, 2, 3, 5, 8):
        x = torch.randn(m, K)
        x[:, 70] *= 300
        x = x.to(dtype)
        plain = x @ qk.dequantize(q, dtype).T
        truth = x.double() @ qk.dequantize(q, torch.float32).double().T
        rule.add(f"m = {m}", "y", product(x, q), plain, truth)
    rule.check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4, 5])
def test_blocks_and_rows_that_are_left_of_several_at_once(
    isa: str, dtype: torch.dtype, num_blocks: int
):
    rule = ErrorRule(dtype)
    for n in (33, 35, 37):  # beside a whole strip
        q = qk.quantize(torch.randn(n, 64 * num_blocks))
        for m in (1, 2, 8):
            x = torch.randn(m, 64 * num_blocks).to(dtype)
            plain = x @ qk.dequantize(q, dtype).T
            truth = x.double() @ qk.dequantize(q, torch.float32).double().T
            rule.add(f"{n} x {num_blocks}, m = {m}", "y", product(x, q), plain, truth)
    rule.check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 3])
def test_large_values_that_meet_weights_of_zero(isa: str, dtype: torch.dtype, count: int):
    """They add nothing, and the small values beside them keep their own bits."""
    rule = ErrorRule(dtype)
    w = torch.randn(160, K)
    w[:, 70 : 70 + count] = 0.0
    q = qk.quantize(w)
    for m in (1, 8):
        x = torch.randn(m, K)
        x[:, 70 : 70 + count] *= 5000
        x = x.to(dtype)
        plain = x @ qk.dequantize(q, dtype).T
        truth = x.double() @ qk.dequantize(q, torch.float32).double().T
        rule.add(f"m = {m}", "y", product(x, q), plain, truth)
    rule.check()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e-37, 0.0])
def test_values_that_no_whole_number_stands_for(isa: str, value: float):
    q = qk.quantize(torch.randn(20, K))
    x = torch.zeros(2, K, dtype=torch.bfloat16)
    x[0, 64:128] = torch.randn(64) * 1e-37
    x[0, 5] = value
    y = product(x, q)
    torch.testing.assert_close(y, product(x, q, "reference"), equal_nan=True)
    assert (y[1] == 0).all()


@pytest.mark.parametrize("size", [1e36, 1e-18, 1e-25])
def test_sums_of_whole_numbers_stay_in_the_range_of_floats(isa: str, size: float):
    q = qk.quantize(torch.randn(20, K) * 1e-3)
    x = (torch.randn(2, K) * size).bfloat16()
    y = product(x, q)
    truth = x.double() @ qk.dequantize(q, torch.float32).double().T
    assert y.isfinite().all()
    assert (y.double() - truth).norm() < torch.finfo(x.dtype).eps * truth.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("m", [2, 5, 8, 9, 40])
def test_a_row_does_not_depend_on_its_neighbours(isa: str, dtype: torch.dtype, m: int):
    """Packed examples stay apart, and an answer is the same whoever else is asking."""
    q = qk.quantize(torch.randn(160, K))
    adapter = qk.Adapter(torch.randn(4, K), torch.randn(160, 4), 0.5)
    x, dy = torch.randn(m, K), torch.randn(m, 160)

    def last_row(first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.cat([first, x[1:]]).to(dtype).requires_grad_()
        y = qk.qlora_linear(rows, q, adapter)
        [dx] = torch.autograd.grad(y, rows, torch.cat([first[:, :160], dy[1:]]).to(dtype))
        return y[-1].detach(), dx[-1]

    outlier = torch.randn(1, K)
    outlier[0, 5] *= 1e3
    expected = last_row(x[:1])
    for first in (outlier, torch.zeros(1, K), torch.full((1, K), NAN)):
        assert all(map(torch.equal, last_row(first), expected))
