"""Linear4bit and Params4bit: what scripts written for bitsandbytes do with a layer."""

import copy
import pickle
from io import BytesIO

import pytest
import torch
from torch import nn

import qlora_kernels.compat.bitsandbytes as bnb
from qlora_kernels.testing.cases import generator

TYPES = ("nf4", "fp4")
STORAGES = (torch.uint8, torch.bfloat16, torch.float32)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(shape)).to(dtype)


def layer(n: int = 80, k: int = 96, **settings: object) -> bnb.nn.Linear4bit:
    """With the weight of the sizes, quantized."""
    made = bnb.nn.Linear4bit(k, n, **settings)
    made.weight.data.copy_(normal(n, k))
    return made.to("cpu")


def test_defaults_and_subclasses():
    plain = bnb.nn.Linear4bit(96, 80)
    assert isinstance(plain, nn.Linear) and isinstance(plain.weight, nn.Parameter)
    assert (plain.weight.quant_type, plain.weight.compress_statistics) == ("fp4", True)
    assert (plain.weight.blocksize, plain.weight.quant_storage) == (64, torch.uint8)
    assert not plain.weight.requires_grad and plain.bias.requires_grad
    assert plain.compute_dtype is None and plain.quant_state is None
    assert bnb.nn.LinearNF4(96, 80, compress_statistics=False).weight.quant_type == "nf4"
    assert bnb.nn.LinearFP4(96, 80, False, torch.bfloat16).compute_dtype == torch.bfloat16
    assert bnb.modules.Linear4bit is bnb.nn.modules.Linear4bit is bnb.nn.Linear4bit


@pytest.mark.parametrize("move", ["cpu", "to", "to with dtype"])
def test_moving_quantizes_once(move: str):
    made = bnb.nn.LinearNF4(96, 80)
    dense = made.weight.data.clone()
    before = made.weight
    moves = {"cpu": made.cpu, "to": lambda: made.to("cpu")}
    moves.get(move, lambda: made.to("cpu", torch.bfloat16))()
    assert made.weight is before and made.weight.bnb_quantized
    codes, state = bnb.functional.quantize_nf4(dense, compress_statistics=True)
    assert torch.equal(made.weight.data, codes) and made.weight.quant_state == state
    assert made.quant_state is made.weight.quant_state
    made.to("cpu")
    assert torch.equal(made.weight.data, codes) and made.weight.quant_state == state


@pytest.mark.parametrize("storage", STORAGES)
def test_a_change_of_dtype_leaves_packed_codes_alone(storage: torch.dtype):
    made = layer(quant_storage=storage, bias=False)
    codes, x = made.weight.data.view(torch.uint8).clone(), normal(5, 96)
    y = made(x)
    for change in (made.half, made.bfloat16, made.double, lambda: made.to("cpu", torch.float32)):
        change()
        assert made.weight.dtype == storage
        assert torch.equal(made.weight.data.view(torch.uint8), codes)
    assert torch.equal(made(x), y)
    assert made.weight.to(torch.float16).dtype == storage


def test_a_float_weight_is_cast_before_it_is_quantized():
    made = bnb.nn.LinearNF4(96, 80).to(torch.bfloat16)
    assert made.weight.dtype == torch.bfloat16 and not made.weight.bnb_quantized
    assert made.to("cpu").weight.quant_state.dtype == torch.bfloat16


@pytest.mark.parametrize("width", [80, 96, 1152, 65])
@pytest.mark.parametrize("training", [True, False])
def test_forward_is_the_product_in_either_mode(width: int, training: bool):
    """bitsandbytes re-packs in eval mode: other sizes crash, and training stops."""
    made = layer(48, width, bias=True).train(training)
    x = normal(5, width).requires_grad_()
    y = made(x)
    truth = bnb.matmul_4bit(x, made.weight, made.weight.quant_state, bias=made.bias)
    assert torch.equal(y, truth)
    y.sum().backward()
    assert x.grad is not None and made.bias.grad is not None


def test_training_goes_on_after_evaluation():
    made, x = layer(), normal(5, 96).requires_grad_()
    made(x).sum().backward()
    gradient, x.grad = x.grad, None
    with torch.no_grad():
        made.eval()(x.detach())
    before = {name: t.clone() for name, t in made.state_dict().items()}
    made.train()(x).sum().backward()
    assert torch.equal(x.grad, gradient)
    after = made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_first_input_settles_the_compute_dtype(caplog: pytest.LogCaptureFixture):
    for dtype in (torch.bfloat16, torch.float32):
        made = layer()
        assert made(normal(5, 96, dtype=dtype)).dtype == dtype
        assert made.compute_dtype == dtype and made.bias.dtype == dtype
        assert made(normal(5, 96, dtype=torch.float16)).dtype == torch.float16
        assert made.compute_dtype == dtype
    for rows, use in ((1, "inference."), (5, "inference or training")):
        caplog.clear()
        made = layer()
        made(normal(rows, 96, dtype=torch.float16))
        assert made.compute_dtype is None and made.bias.dtype == torch.float16
        assert use in caplog.text
    assert layer(compute_dtype=torch.bfloat16)(normal(5, 96)).dtype == torch.float32


def test_a_layer_that_was_not_moved_says_what_to_do():
    with pytest.raises(ValueError, match=r'call \.to\("cpu"\)'):
        bnb.nn.LinearNF4(96, 80)(normal(5, 96))


def test_the_state_is_found_again_after_a_wrapper_made_a_plain_parameter():
    made, x = layer(quant_type="nf4"), normal(5, 96)
    y = made(x)
    made.weight = nn.Parameter(made.weight.data, requires_grad=False)
    assert torch.equal(made(x), y)
    assert isinstance(made.weight, bnb.nn.Params4bit) and made.weight.quant_type == "nf4"
    made.weight.quant_state = None
    assert torch.equal(made(x), y)


@pytest.mark.parametrize("quant_type", TYPES)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle", "save"])
def test_layers_are_copied_and_pickled(quant_type: str, storage: torch.dtype, duplicate: str):
    made, x = layer(quant_type=quant_type, quant_storage=storage), normal(5, 96)
    if duplicate == "deepcopy":
        other = copy.deepcopy(made)
    elif duplicate == "pickle":
        other = pickle.loads(pickle.dumps(made))
    else:
        torch.save(made, buffer := BytesIO())
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    assert type(other.weight) is bnb.nn.Params4bit
    assert other.weight.module is other and made.weight.module is made
    assert other.weight.quant_state == made.weight.quant_state
    assert other.weight.quant_state is not made.weight.quant_state
    assert other.weight.data_ptr() != made.weight.data_ptr()
    assert torch.equal(other(x), made(x))


@pytest.mark.parametrize("quantized", [True, False])
def test_parameters_are_copied_and_cut(quantized: bool):
    weight = bnb.nn.Params4bit(normal(80, 96), blocksize=128, quant_type="nf4")
    weight = weight.to("cpu") if quantized else weight
    shallow, deep = copy.copy(weight), copy.deepcopy(weight)
    again = pickle.loads(pickle.dumps(weight))
    assert shallow.data_ptr() == weight.data_ptr() != deep.data_ptr()
    assert shallow.quant_state is weight.quant_state
    assert deep.quant_state == again.quant_state == weight.quant_state
    for other in (shallow, deep, again):
        assert torch.equal(other, weight) and type(other) is bnb.nn.Params4bit
        assert other.__dict__.keys() == weight.__dict__.keys()
        assert (other.blocksize, other.quant_type, other.bnb_quantized) == (128, "nf4", quantized)
    pieces = [*torch.chunk(weight, 2), *torch.split(weight, 40), *weight.chunk(2), *weight.split(9)]
    assert all(type(piece) is bnb.nn.Params4bit for piece in pieces)
    assert all(piece.quant_state is weight.quant_state for piece in pieces)
    assert type(weight + 1) is torch.Tensor


def test_attributes_of_the_state_are_those_of_the_weight():
    weight, plain = layer().weight, layer(compress_statistics=False).weight
    for key, value in weight.quant_state.as_dict(packed=True).items():
        found = weight
        for name in key.split("."):
            found = getattr(found, name)
        assert torch.equal(found, value)
    assert weight.nested_blocksize == 256 and weight.nested_dtype == torch.float32
    assert hasattr(plain, "absmax") and not hasattr(plain, "nested_absmax")
    assert not hasattr(bnb.nn.Params4bit(normal(8, 64)), "absmax")
    with pytest.raises(AttributeError, match="nonexistent"):
        _ = weight.nonexistent


@pytest.mark.parametrize("nested", [True, False])
def test_compiles_whole(nested: bool):
    net = nn.Sequential(*(layer(96, 96, compress_statistics=nested) for _ in range(2)))
    x = normal(5, 96).requires_grad_()
    net(x).sum().backward()
    gradient, x.grad = x.grad, None
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    y.sum().backward()
    assert torch.equal(y, net(x)) and torch.equal(x.grad, gradient)
