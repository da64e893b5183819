"""matmul_4bit: the product and its gradients, whatever the orientation; bitsandbytes #2034."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import qlora_kernels as qk
import qlora_kernels.compat.bitsandbytes as bnb
from qlora_kernels.compat.bitsandbytes import functional
from qlora_kernels.testing.cases import generator

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(shape)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_product_and_gradients_are_those_of_the_op(
    dtype: torch.dtype, nested: bool, quant_type: str
):
    w, dy = normal(80, 96, dtype=dtype), normal(2, 5, 80, dtype=dtype)
    q = qk.quantize(w, quant_type, double_quant=nested)
    codes, state = functional.quantize_4bit(w, compress_statistics=nested, quant_type=quant_type)
    results = []
    for product in (
        lambda x, bias: bnb.matmul_4bit(x, codes, state, bias=bias),
        lambda x, bias: qk.qlora_linear(x, q, bias=bias),
    ):
        x = normal(2, 5, 96, dtype=dtype).requires_grad_()
        bias = normal(80, dtype=dtype).requires_grad_()
        y = product(x, bias)
        y.backward(dy)
        results.append((y, x.grad, bias.grad))
    for mine, truth in zip(*results, strict=True):
        assert mine.dtype == dtype and torch.equal(mine, truth)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_the_orientation_of_the_codes_does_not_matter(rows: int):
    codes, state = functional.quantize_nf4(normal(80, 96))
    x, bias = normal(rows, 96).requires_grad_(), normal(80)
    y = bnb.matmul_4bit(x, codes, state, bias=bias)
    assert torch.equal(bnb.matmul_4bit(x, codes.t(), state, bias=bias), y)
    with torch.no_grad():
        assert torch.equal(bnb.matmul_4bit(x, codes, state, bias=bias), y)
        out = torch.empty_like(y)
        assert bnb.matmul_4bit(x, codes, state, out, bias) is out and torch.equal(out, y)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_a_weight_that_was_quantized_transposed_is_taken_with_a_warning():
    w = normal(80, 96)
    codes, state = functional.quantize_nf4(w.T.contiguous())
    x, bias = normal(5, 96).requires_grad_(), normal(80).requires_grad_()
    with pytest.warns(DeprecationWarning, match="Re-quantize from the weight"):
        y = bnb.matmul_4bit(x, codes, state, bias=bias)
    y.sum().backward()
    decoded = functional.dequantize_4bit(codes, state)
    torch.testing.assert_close(x.grad, decoded.sum(1).expand(5, 96))
    assert bias.grad is not None


def test_gemv_is_the_product():
    codes, state = functional.quantize_fp4(normal(80, 96), compress_statistics=True)
    x = normal(1, 96)
    y = functional.gemv_4bit(x, codes.t(), state=state)
    assert torch.equal(y, bnb.matmul_4bit(x, codes, state))
    out = torch.empty_like(y)
    assert functional.gemv_4bit(x, codes, out, state=state) is out and torch.equal(out, y)


def test_what_is_refused():
    codes, state = functional.quantize_nf4(normal(2, 80, 96))
    for call, message in (
        (lambda: bnb.matmul_4bit(normal(1, 96), codes, None), "quant_state should be given"),
        (lambda: bnb.matmul_4bit(normal(1, 96), codes, state), r"shape should be \[n, k\]"),
        (lambda: functional.gemv_4bit(normal(1, 96), codes), "state should be the one of"),
        (
            lambda: bnb.matmul_4bit(normal(1, 95), *functional.quantize_nf4(normal(80, 96))),
            r"x should be \[\.\.\., k\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("nested", [True, False])
def test_codes_and_scales_are_saved_where_hooks_see_them(nested: bool):
    """bitsandbytes #2034: its backward reads attributes, which a hook cannot replace."""
    codes, state = functional.quantize_nf4(normal(80, 96), compress_statistics=nested)
    parts = [codes, state.absmax] + ([state.state2.absmax, state.offset] if nested else [])
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.data_ptr()) or t, id_):
        bnb.matmul_4bit(normal(5, 96).requires_grad_(), codes, state)
    assert {part.data_ptr() for part in parts} <= set(seen)


def id_(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def test_checkpointing_over_a_buffer_that_another_layer_overwrites():
    """bitsandbytes #2034: weights streamed through one buffer, filled again before each use."""
    stored = [functional.quantize_nf4(normal(96, 96) * scale) for scale in (1, 2, 3)]
    buffer = torch.empty_like(stored[0][0])
    scales = torch.empty_like(stored[0][1].absmax)

    def streamed(x: torch.Tensor, i: int) -> torch.Tensor:
        codes, state = stored[i]
        facts = (state.shape, state.code, state.blocksize, state.quant_type, state.dtype)
        now = functional.QuantState(scales.copy_(state.absmax), *facts)
        return bnb.matmul_4bit(x, buffer.copy_(codes), now)

    x, resident = normal(5, 96).requires_grad_(), normal(5, 96).requires_grad_()
    y, truth = x, resident
    for i in range(3):
        y = checkpoint(streamed, y, i, use_reentrant=False)
        truth = bnb.matmul_4bit(truth, *stored[i])
    y.sum().backward()
    truth.sum().backward()
    assert torch.equal(y, truth) and torch.equal(x.grad, resident.grad)
