"""State dicts of Linear4bit and of parametrized modules: both ways with bitsandbytes; #1946."""

import bitsandbytes
import bitsandbytes.nn.parametrize as their_parametrize
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import qlora_kernels.compat.bitsandbytes as bnb
from qlora_kernels.compat.bitsandbytes.nn import parametrize
from qlora_kernels.testing.cases import generator

SETTINGS = [
    {"quant_type": quant_type, "compress_statistics": nested, "quant_storage": storage}
    for quant_type in ("nf4", "fp4")
    for nested in (True, False)
    for storage in (torch.uint8, torch.bfloat16)
]
N, K = 128, 192


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(shape))


def layer(library: object = bnb, **settings: object) -> nn.Linear:
    made = library.nn.Linear4bit(K, N, **settings)
    made.weight.data.copy_(normal(N, K))
    made.bias.data.copy_(normal(N))
    return made.to(torch.bfloat16).to("cpu")


def same(mine: torch.Tensor, other: torch.Tensor) -> bool:
    """Bytes, since codes that go by a float dtype may be NaN there."""
    if mine.dtype != other.dtype or mine.shape != other.shape:
        return False
    return torch.equal(*(t.reshape(-1).contiguous().view(torch.uint8) for t in (mine, other)))


def equal(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(mine) == list(other) and all(same(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("settings", SETTINGS)
def test_keys_order_and_bits_are_theirs(settings: dict[str, object]):
    """But for 8-bit codes of scales where their table misses the nearest."""
    mine, theirs = layer(bnb, **settings).state_dict(), layer(bitsandbytes, **settings).state_dict()
    assert list(mine) == list(theirs)
    assert {name for name in mine if not same(mine[name], theirs[name])} <= {"weight.absmax"}
    differing = (mine["weight.absmax"] != theirs["weight.absmax"]).sum()
    assert differing <= settings["compress_statistics"] * mine["weight.absmax"].numel() // 20


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("into", ["fresh", "quantized", "meta"])
@pytest.mark.parametrize("source", [bnb, bitsandbytes])
def test_a_state_dict_loads_strictly(source: object, into: str, settings: dict[str, object]):
    """bitsandbytes #1946: there, strict loading raises and loose loading keeps the old scales."""
    written = layer(source, **settings).state_dict()
    target = bnb.nn.Linear4bit(K, N, device="meta" if into == "meta" else None).bfloat16()
    target = target.to("cpu") if into == "quantized" else target
    target.load_state_dict(written, assign=into == "meta")
    assert equal(target.state_dict(), written)
    assert target.weight.module is target and target.weight.bnb_quantized
    assert target.weight.quant_type == settings["quant_type"]
    assert target.quant_state is target.weight.quant_state
    shares = target.weight.data_ptr() == written["weight"].data_ptr()
    assert shares == (into == "meta")
    target.to("cpu")
    assert equal(target.state_dict(), written)


@pytest.mark.parametrize("settings", SETTINGS)
def test_bitsandbytes_reads_ours(settings: dict[str, object]):
    mine = layer(bnb, **settings)
    parts = mine.state_dict()
    codes = parts.pop("weight")
    parts.pop("bias")
    theirs = bitsandbytes.nn.Params4bit.from_prequantized(codes, parts, device="cpu")
    values = bitsandbytes.functional.dequantize_4bit(theirs.data, theirs.quant_state)
    truth = bnb.functional.dequantize_4bit(mine.weight, mine.weight.quant_state)
    assert torch.equal(values, truth)


def test_a_model_through_a_file(tmp_path):
    model = nn.Sequential(layer(), nn.Sequential(nn.ReLU(), bnb.nn.LinearNF4(N, 8))).to("cpu")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = nn.Sequential(
        bnb.nn.Linear4bit(K, N), nn.Sequential(nn.ReLU(), bnb.nn.Linear4bit(N, 8))
    )
    assert not any(fresh.load_state_dict(load_file(tmp_path / "model.safetensors")))
    x = normal(5, K)
    assert torch.equal(fresh(x), model(x))


def test_a_float_weight_loads_into_a_fresh_layer():
    dense = nn.Linear(K, N)
    fresh = bnb.nn.LinearNF4(K, N)
    fresh.load_state_dict(dense.state_dict())
    assert torch.equal(fresh.weight.data, dense.weight) and not fresh.weight.bnb_quantized
    codes, _ = bnb.functional.quantize_nf4(dense.weight)
    assert torch.equal(fresh.to("cpu").weight.data, codes)


def without(*names: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in layer().state_dict().items() if key not in names}


def of_another_shape() -> dict[str, torch.Tensor]:
    return bnb.nn.Linear4bit(N, K).to("cpu").state_dict() | {"bias": normal(N)}


REFUSED = {
    r"misses \['absmax'\]": lambda: without("weight.absmax"),
    "misses": lambda: without("weight.quant_state.bitsandbytes__fp4"),
    "should come with their quant_state": lambda: {
        key: value for key, value in layer().state_dict().items() if not key.startswith("weight.")
    },
    rf"shape should be \[{N}, {K}\], was \[{K}, {N}\]": of_another_shape,
    "size mismatch for weight": lambda: nn.Linear(K, N).state_dict(),
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_whole_is_refused_strict_or_not(message: str, strict: bool):
    target = layer()
    before = {name: t.clone() for name, t in target.state_dict().items()}
    with pytest.raises(RuntimeError, match=message):
        target.load_state_dict(REFUSED[message](), strict=strict)
    after = target.state_dict()
    weights = [name for name in before if name != "bias"]
    assert equal({n: before[n] for n in weights}, {n: after[n] for n in weights})


def test_missing_and_unknown_keys_are_told():
    told = layer().load_state_dict(without("bias") | {"else": normal(1)}, strict=False)
    assert told == (["bias"], ["else"])
    assert layer().load_state_dict({}, strict=False).missing_keys == ["weight", "bias"]


@pytest.mark.parametrize("nested", [True, False])
def test_any_parameter_of_a_module(nested: bool):
    modules = [nn.Module(), nn.Module()]
    for module, library in zip(modules, (parametrize, their_parametrize), strict=True):
        module.register_parameter("experts", nn.Parameter(normal(4, 32, 64)))
        library.replace_parameter_4bit(module, "experts", compress_statistics=nested)
    mine, theirs = (module.state_dict() for module in modules)
    assert list(mine) == list(theirs) and torch.equal(mine["experts"], theirs["experts"])
    assert modules[0].experts.shape == (4, 32, 64) and not modules[0].experts.requires_grad
    reader = nn.Module()
    reader.register_parameter("experts", nn.Parameter(theirs.pop("experts"), requires_grad=False))
    parts = {name.removeprefix("experts."): part for name, part in theirs.items()}
    parametrize.replace_parameter_4bit_prequantized(reader, "experts", parts, "cpu")
    assert torch.equal(reader.experts, modules[1].experts)


def test_parameters_that_cannot_be_replaced():
    module = nn.Linear(4, 4)
    module.number = 3
    with pytest.raises(AttributeError, match="does not have parameter 'absent'"):
        parametrize.replace_parameter_4bit(module, "absent")
    with pytest.raises(TypeError, match="'number' is not an instance"):
        parametrize.replace_parameter_4bit(module, "number")


def test_a_parameter_is_decoded_once_in_a_forward():
    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> bool:
            return self.weight is self.weight

    module = Twice(64, 4)
    parametrize.replace_parameter_4bit(module, "weight")
    assert module(normal(2, 64)) and module.weight is not module.weight
    assert nn.utils.parametrize._cache_enabled == 0 and not nn.utils.parametrize._cache
