"""QLoRALinear as a module: what it computes, and what it survives."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, QLoRALinear

FORMATS = ("nf4", "fp4", "int8", "none")
CONFIG = QLoRAConfig(rank=4, alpha=8, dropout=0.3)
X = torch.randn(3, 5, 48)


def dense(bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(48, 32, bias=bias)


def layer(config: QLoRAConfig = CONFIG, seed: int = 0) -> QLoRALinear:
    """A layer whose adapter has learnt something, in eval mode."""
    made = QLoRALinear.from_linear(dense(seed=seed), config).eval()
    nn.init.normal_(made.lora_b)
    return made


def dequantized(made: QLoRALinear) -> nn.Linear:
    twin = dense()
    twin.weight.data.copy_(made.dequantize())
    twin.bias.data.copy_(made.bias)
    return twin


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_fresh_layer_differs_by_quantization_only(format: str, bias: bool):
    linear = dense(bias)
    made = QLoRALinear.from_linear(linear, replace(CONFIG, format=format)).train()
    twin = copy.deepcopy(linear)
    twin.weight.data.copy_(made.dequantize())
    with qk.use_backend("reference"):
        assert torch.equal(made(X), twin(X)), "B is zero, so the adapter adds nothing"
    if format == "none":
        assert torch.equal(made.weight, linear.weight)
    else:
        assert made.weight.dtype == torch.uint8


@pytest.mark.parametrize("format", FORMATS)
def test_it_computes_what_the_op_does(format: str):
    made = layer(replace(CONFIG, format=format))
    adapter = replace(made.adapter, dropout=0.0)
    expected = qk.qlora_linear(X, made.base, adapter, made.bias)
    assert torch.equal(made(X), expected)
    made.adapter_enabled = False
    assert torch.equal(made(X), qk.qlora_linear(X, made.base, None, made.bias))


def test_it_is_a_linear_layer_to_whoever_asks():
    made = layer()
    assert isinstance(made, nn.Linear) and (made.in_features, made.out_features) == (48, 32)
    assert made.W_q is made.weight and made.dequantize().shape == (32, 48)
    assert "in_features=48, out_features=32, format=nf4, rank=4, bias=True" in repr(made)


def test_only_the_adapter_is_trained():
    made = layer()
    trained = {n for n, p in made.named_parameters() if p.requires_grad}
    assert trained == {"lora_a", "lora_b"}
    made(X).sum().backward()
    assert made.lora_a.grad.any() and made.lora_b.grad.any() and made.bias.grad is None


def test_it_drops_in_train_mode_only():
    made = layer()
    assert torch.equal(made(X), made(X))
    made.train()
    assert not torch.equal(made(X), made(X))
    torch.manual_seed(1)
    first = made(X)
    torch.manual_seed(1)
    assert torch.equal(made(X), first)


@pytest.mark.parametrize("rslora", [False, True])
def test_scaling(rslora: bool):
    made = QLoRALinear.from_linear(dense(), QLoRAConfig(rank=16, alpha=8, rslora=rslora))
    assert made.scaling == (8 / 4 if rslora else 8 / 16) == made.adapter.scaling


def test_a_is_drawn_as_asked():
    wide = nn.Linear(4096, 8)
    gaussian = QLoRALinear.from_linear(wide, QLoRAConfig(rank=16)).lora_a
    deviation = 5 / (2 * gaussian.numel()) ** 0.5  # five standard errors of a normal's own
    assert abs(gaussian.std() * 16 - 1) < deviation
    uniform = QLoRALinear.from_linear(wide, QLoRAConfig(rank=16, init="kaiming-uniform")).lora_a
    assert uniform.abs().max() <= 1 / 4096**0.5 < uniform.abs().max() * 1.01


def state_of(made: QLoRALinear) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in made.state_dict().items()}


def assert_same(left: QLoRALinear, right: QLoRALinear) -> None:
    a, b = left.state_dict(), right.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    assert torch.equal(left(X), right(X))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("double_quant", [False, True])
def test_a_state_dict_goes_into_a_fresh_layer(format: str, double_quant: bool):
    config = replace(CONFIG, format=format, double_quant=double_quant)
    made, fresh = layer(config), layer(config, seed=1)
    assert not torch.equal(made(X), fresh(X))
    assert fresh.load_state_dict(made.state_dict(), strict=True)
    assert_same(made, fresh)


def test_a_state_dict_of_another_format_is_refused():
    """nf4 and fp4 have the same shapes: without a check the codes would mean something else."""
    made = layer(replace(CONFIG, format="fp4"))
    with pytest.raises(qk.InputError, match=r"'format': 'nf4'.*holds .*'fp4'"):
        layer().load_state_dict(made.state_dict())


def torch_saved(made: QLoRALinear) -> QLoRALinear:
    buffer = io.BytesIO()
    torch.save(made, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made)), torch_saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_is_the_same_and_its_own(format: str, copied):
    made = layer(replace(CONFIG, format=format))
    twin = copied(made)
    assert_same(made, twin)
    twin.lora_b.data.zero_()
    assert made.lora_b.any() and not torch.equal(made(X), twin(X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_leaves_codes_scales_and_adapter_alone(dtype: torch.dtype):
    for double_quant in (False, True):
        made = layer(replace(CONFIG, double_quant=double_quant))
        before = state_of(made)
        made.to(dtype)
        after = made.state_dict()
        assert after.pop("bias").dtype == dtype
        for name, tensor in after.items():
            assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name
        assert made(X.to(dtype)).dtype == dtype


def test_an_unquantized_weight_is_cast():
    made = layer(replace(CONFIG, format="none")).bfloat16()
    assert made.weight.dtype == torch.bfloat16 == made.dequantize().dtype
    assert made.lora_a.dtype == torch.float32


def test_meta_and_back():
    made = layer()
    state = state_of(made)
    empty = copy.deepcopy(made).to("meta")
    assert empty(X.to("meta")).shape == (3, 5, 32)
    empty.to_empty(device="cpu").load_state_dict(state)
    assert_same(made, empty)


def test_a_layer_is_quantized_on_meta():
    with torch.device("meta"):
        made = QLoRALinear.from_linear(nn.Linear(48, 32), CONFIG)
    held = [*made.parameters(), *made.buffers()]
    assert {t.device.type for t in held} == {"meta"}
    made.to_empty(device="cpu").load_state_dict(layer().state_dict())
    assert_same(made.eval(), layer())


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool, dropout_on: str):
    made = layer(replace(CONFIG, dropout_on=dropout_on)).train()
    results = []
    for run in (made, lambda x: checkpoint(made, x, use_reentrant=reentrant)):
        torch.manual_seed(2)
        x = X.clone().requires_grad_()
        run(x).square().sum().backward()
        results.append((x.grad, made.lora_a.grad.clone(), made.lora_b.grad.clone()))
        made.zero_grad()
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_autocast_computes_in_its_dtype():
    made = layer()
    with torch.autocast("cpu", torch.bfloat16):
        y = made(X)
    assert y.dtype == torch.bfloat16 and torch.equal(y, made(X.bfloat16()))
    y.float().sum().backward()
    assert made.lora_a.grad.dtype == torch.float32 and made.lora_a.grad.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_it_compiles_in_one_graph(training: bool):
    made = layer(replace(CONFIG, dropout=0.0)).train(training)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), made(X))
    torch._dynamo.reset()


def test_what_is_no_linear_layer_is_refused():
    with pytest.raises(qk.InputError, match=r"linear should be an nn\.Linear, was Conv2d"):
        QLoRALinear.from_linear(nn.Conv2d(1, 1, 1), CONFIG)
    with pytest.raises(qk.InputError, match=r"linear should be an nn\.Linear, was QLoRALinear"):
        QLoRALinear.from_linear(layer(), CONFIG)


def test_an_adapter_that_does_not_fit_is_refused():
    for a, b in (
        (torch.zeros(4, 47), torch.zeros(32, 4)),
        (torch.zeros(4, 48), torch.zeros(32, 5)),
    ):
        with pytest.raises(qk.InputError, match=r"^set_adapter: "):
            layer().set_adapter(a, b, 8)


def test_set_adapter_keeps_the_parameters_that_an_optimizer_holds():
    made = layer()
    held = made.lora_a
    given = torch.randn(4, 48)
    made.set_adapter(given, torch.randn(32, 4), 8)
    assert made.lora_a is held and torch.equal(held, given)
    made.set_adapter(other := torch.randn(2, 48), torch.randn(32, 2), 8)
    assert made.lora_a is not held and made.scaling == 4
    other.zero_()
    assert made.lora_a.any(), "the layer's own, not the caller's memory"
