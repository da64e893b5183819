"""What raises in bitsandbytes raises the same kind here, and an InputError by any name."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn

import qlora_kernels.compat.bitsandbytes as ours
from qlora_kernels.errors import InputError
from qlora_kernels.testing.cases import generator

Call = Callable[[ModuleType], Any]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(shape))


def packed(bnb: ModuleType) -> tuple[torch.Tensor, Any]:
    return bnb.functional.quantize_4bit(normal(80, 96), quant_type="nf4")


def product(bnb: ModuleType, columns: int = 96, needs_grad: bool = True, **named: Any) -> Any:
    x = normal(5, columns).requires_grad_(needs_grad)
    return bnb.matmul_4bit(x, *packed(bnb), **named)


def layer(bnb: ModuleType, **named: Any) -> nn.Module:
    return bnb.nn.Linear4bit(96, 80, quant_type="nf4", **named)


def layer_with_another_bias(bnb: ModuleType) -> None:
    made = layer(bnb).to("cpu")
    made.bias = nn.Parameter(normal(79))
    made(normal(5, 96))


def from_dict(bnb: ModuleType, without: str = "", is_packed: bool = False, **more: Any) -> Any:
    parts = packed(bnb)[1].as_dict(packed=is_packed) | more
    parts.pop(without, None)
    return bnb.functional.QuantState.from_dict(parts, "cpu")


def optimizer(bnb: ModuleType, name: str, **named: Any) -> Any:
    return getattr(bnb.optim, name)([nn.Parameter(normal(64, 128))], **named)


def step(bnb: ModuleType, name: str, **named: Any) -> Any:
    made = optimizer(bnb, name, **named)
    [parameter] = made.param_groups[0]["params"]
    parameter.grad = normal(64, 128)
    made.step()
    return made.state[parameter]


def step_of_a_sparse_gradient(bnb: ModuleType, name: str) -> None:
    table = nn.Embedding(64, 128, sparse=True)
    made = getattr(bnb.optim, name)(table.parameters())
    table(torch.tensor([1])).sum().backward()
    made.step()


KINDS: dict[str, tuple[type[Exception], Call]] = {
    "x": (RuntimeError, lambda bnb: product(bnb, 95)),
    "x, no gradient": (RuntimeError, lambda bnb: product(bnb, 95, needs_grad=False)),
    "bias": (RuntimeError, lambda bnb: product(bnb, bias=normal(79))),
    "no state": (ValueError, lambda bnb: bnb.matmul_4bit(normal(5, 96), packed(bnb)[0], None)),
    "gemv": (
        RuntimeError,
        lambda bnb: bnb.functional.gemv_4bit(
            normal(1, 95), packed(bnb)[0].t(), state=packed(bnb)[1]
        ),
    ),
    "x of a layer": (RuntimeError, lambda bnb: layer(bnb).to("cpu")(normal(5, 95))),
    "bias of a layer": (RuntimeError, layer_with_another_bias),
    "layer not quantized": (AssertionError, lambda bnb: layer(bnb)(normal(5, 96))),
    "out": (
        RuntimeError,
        lambda bnb: bnb.functional.dequantize_4bit(*packed(bnb), out=normal(79, 96)),
    ),
    "out of 8 bits": (
        RuntimeError,
        lambda bnb: bnb.functional.dequantize_blockwise(
            *bnb.functional.quantize_blockwise(normal(64)), out=normal(63)
        ),
    ),
    "unknown key": (AssertionError, lambda bnb: from_dict(bnb, other=1)),
    "unknown key, packed": (AssertionError, lambda bnb: from_dict(bnb, is_packed=True, other=1)),
    "no absmax": (KeyError, lambda bnb: from_dict(bnb, "absmax")),
    "no absmax, packed": (KeyError, lambda bnb: from_dict(bnb, "absmax", is_packed=True)),
    "no quant_map": (KeyError, lambda bnb: from_dict(bnb, "quant_map")),
    "no blocksize": (KeyError, lambda bnb: from_dict(bnb, "blocksize")),
    "no dtype": (KeyError, lambda bnb: from_dict(bnb, "dtype")),
    "no quant_type": (ValueError, lambda bnb: from_dict(bnb, "quant_type")),
    "map": (AssertionError, lambda bnb: bnb.functional.create_dynamic_map(False, 5, 4)),
    "fp8 map": (AssertionError, lambda bnb: bnb.functional.create_fp8_map(True, 5, 5, 8)),
    "sparse": (RuntimeError, lambda bnb: step_of_a_sparse_gradient(bnb, "AdamW")),
    "sparse, 8 bits": (RuntimeError, lambda bnb: step_of_a_sparse_gradient(bnb, "AdamW8bit")),
    "16 bits": (NotImplementedError, lambda bnb: step(bnb, "AdamW", optim_bits=16)),
    "bits of 8": (ValueError, lambda bnb: optimizer(bnb, "Adam8bit", optim_bits=8)),
    "amsgrad of 8": (ValueError, lambda bnb: optimizer(bnb, "AdamW8bit", amsgrad=True)),
    "text for betas": (ValueError, lambda bnb: optimizer(bnb, "AdamW", betas="beta")),
    "betas of 1": (ValueError, lambda bnb: optimizer(bnb, "AdamW", betas="(0.9, 1.0)")),
}


@pytest.mark.parametrize("case", KINDS)
def test_the_kind_is_theirs_and_ours(case: str):
    kind, call = KINDS[case]
    aborts = case == "gemv" and bitsandbytes.functional.has_avx512bf16()  # the whole process
    if not aborts:
        with pytest.raises(kind):
            call(bitsandbytes)
    with pytest.raises(kind) as caught:
        call(ours)
    assert isinstance(caught.value, InputError)
    assert str(caught.value)[0] not in "'\"" and ": " in str(caught.value)


# There they are read beyond their end on some CPUs.
@pytest.mark.parametrize("cut", [ours.matmul_4bit, ours.functional.dequantize_4bit])
def test_too_few_codes_are_a_runtime_error(cut: Callable[..., Any]):
    codes, state = packed(ours)
    x = [normal(5, 96)] if cut is ours.matmul_4bit else []
    with pytest.raises(RuntimeError, match="codes of a nf4 weight"):
        cut(*x, codes[:-64], state)


@pytest.mark.parametrize("name", ["AdamW", "AdamW32bit", "PagedAdamW", "PagedAdam32bit"])
def test_amsgrad_is_passed_over_as_there_but_not_in_silence(name: str):
    optimizer(bitsandbytes, name, amsgrad=True)
    with pytest.warns(UserWarning, match="amsgrad should be False, was True; it has no effect"):
        state = step(ours, name, amsgrad=True)
    assert torch.equal(state["state1"], step(ours, name)["state1"])


def test_a_name_of_32_bits_has_32_bits():
    theirs = step(bitsandbytes, "AdamW32bit", optim_bits=8)
    with pytest.warns(UserWarning, match="optim_bits should be 32, was 8"):
        mine = step(ours, "AdamW32bit", optim_bits=8)
    assert mine["state1"].dtype == theirs["state1"].dtype == torch.float32


@pytest.mark.parametrize("text", ["(0.8, 0.95)", "0.8,0.95"])
def test_betas_may_be_text(text: str):
    for bnb in (bitsandbytes, ours):
        assert list(optimizer(bnb, "Adam", betas=text).param_groups[0]["betas"]) == [0.8, 0.95]
