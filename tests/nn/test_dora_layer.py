"""DoRA in the layer: it starts from the base, and its norm is computed once per optimizer step."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, QLoRALinear, column_norm

CONFIG = QLoRAConfig(rank=4, alpha=8, dora=True)
X = torch.randn(3, 5, 48)
FORMATS = ("nf4", "fp4", "int8", "none")


def layer(config: QLoRAConfig = CONFIG, bias: bool = True) -> QLoRALinear:
    """A layer whose adapter has learnt something."""
    torch.manual_seed(0)
    made = QLoRALinear.from_linear(nn.Linear(48, 32, bias=bias), config).train()
    nn.init.normal_(made.lora_b)
    return made


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every norm that a layer has computed."""
    norms = []

    def counting(base, adapter):
        norms.append(qk.dora_column_norm(base, adapter))
        return norms[-1]

    monkeypatch.setattr(column_norm, "dora_column_norm", counting)
    return norms


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rslora", [False, True])
def test_a_fresh_layer_is_its_base(format: str, rslora: bool):
    config = replace(CONFIG, format=format, rslora=rslora)
    made = QLoRALinear.from_linear(nn.Linear(48, 32, bias=False), config)
    assert made.lora_magnitude.dtype == torch.float32 and made.lora_magnitude.requires_grad
    assert torch.equal(made(X), qk.qlora_linear(X, made.base))
    assert "dora=True" in repr(made)


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
def test_it_computes_what_the_op_does(dropout_on: str):
    made = layer(replace(CONFIG, dropout=0.3, dropout_on=dropout_on))
    results = []
    for run in (made, lambda x: qk.qlora_linear(x, made.base, made.adapter, made.bias)):
        torch.manual_seed(1)
        run(X).square().sum().backward()
        results.append([p.grad for p in (made.lora_a, made.lora_b, made.lora_magnitude)])
        made.zero_grad()
    assert all(map(torch.equal, *results))
    made.adapter_enabled = False
    assert torch.equal(made(X), qk.qlora_linear(X, made.base, None, made.bias))


@pytest.mark.parametrize("fused", [False, True])
def test_the_norm_is_computed_once_per_step(computed: list[torch.Tensor], fused: bool):
    made = layer()
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], fused=fused)
    for step in range(3):
        for _ in range(2):  # gradient accumulation
            checkpoint(made, X, use_reentrant=False).square().sum().backward()
        with torch.inference_mode():
            made(X)
        assert len(computed) == step + 1
        optimizer.step()
    made(X)
    assert not torch.equal(computed[-1], computed[-2])


def test_a_norm_of_inference_serves_training(computed: list[torch.Tensor]):
    made = layer()
    with torch.inference_mode():
        made(X)
    made(X).sum().backward()
    assert len(computed) == 1 and made.lora_magnitude.grad.any()


def test_each_optimizer_step_empties_the_caches_of_all_models(computed: list[torch.Tensor]):
    first, second = layer(), layer()
    optimizer = torch.optim.SGD(second.parameters(), lr=0.1)
    first(X), second(X).sum().backward()
    optimizer.step()
    expected = qk.qlora_linear(X, second.base, second.adapter, second.bias)
    assert torch.equal(second(X), expected) and torch.isfinite(first(X)).all()
    assert len(computed) == 4


CHANGES = {
    "loading": lambda made: made.load_state_dict(
        {k: 2 * v if k == "lora_b" else v for k, v in made.state_dict().items()}
    ),
    "set_adapter": lambda made: made.set_adapter(
        made.lora_a.detach(), torch.ones(32, 4), 8, magnitude=made.lora_magnitude.detach()
    ),
    "replacing a parameter": lambda made: setattr(made, "lora_b", nn.Parameter(torch.ones(32, 4))),
    "_apply": lambda made: made.to(torch.bfloat16),
    "forget": lambda made: (made.lora_b.data.mul_(2), made.column_norm.forget()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_factors_is_noticed(change: str):
    made = layer()
    made(X)
    CHANGES[change](made)
    x = X.to(made.bias.dtype)
    expected = qk.qlora_linear(x, made.base, made.adapter, made.bias)
    assert torch.equal(made(x), expected)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"]
)
def test_a_copy_has_a_norm_of_its_own(copied):
    made = layer()
    y = made(X)
    twin = copied(made)
    assert torch.equal(twin(X), y)
    twin.lora_b.data.zero_()
    twin.column_norm.forget()
    assert torch.equal(made(X), y) and not torch.equal(twin(X), y)


def test_meta_and_back():
    made = layer()
    y, state = made(X), made.state_dict()
    empty = copy.deepcopy(made).to("meta")
    assert empty(X.to("meta")).shape == (3, 5, 32)
    with torch.device("meta"):
        assert QLoRALinear.from_linear(nn.Linear(48, 32), CONFIG).lora_magnitude.is_meta
    empty.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(empty(X), y)


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool, dropout_on: str):
    made = layer(replace(CONFIG, dropout=0.3, dropout_on=dropout_on))
    results = []
    for run in (made, lambda x: checkpoint(made, x, use_reentrant=reentrant)):
        torch.manual_seed(2)
        x = X.clone().requires_grad_()
        run(x).square().sum().backward()
        results.append((x.grad, made.lora_magnitude.grad.clone(), made.lora_b.grad.clone()))
        made.zero_grad()
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("warm", [False, True])
def test_it_compiles_in_one_graph(warm: bool):
    made, compiled_of = layer(), layer()
    expected = made(X)
    if warm:
        compiled_of(X)
    compiled = torch.compile(compiled_of, fullgraph=True, backend="aot_eager")
    y = compiled(X)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(compiled_of.lora_magnitude.grad, made.lora_magnitude.grad)
    torch._dynamo.reset()
