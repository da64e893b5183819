"""torch.compile: a layer and a prepared Llama in one graph, which serves every length."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, QLoRALinear, adapter_parameters

# torch's own import of inductor warns, once in a process.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")

SLOW = pytest.mark.slow
CONFIG = QLoRAConfig(rank=4)
METHODS = {"lora": CONFIG, "dora": replace(CONFIG, dora=True)}
LENGTHS = (16, 7, 24, 12)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def learnt(model: nn.Module) -> nn.Module:
    """Its adapters do something."""
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = adapter_parameters(model)
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("method", ["lora", pytest.param("dora", marks=SLOW)])
def test_a_layer_by_inductor(method: str):
    torch.manual_seed(0)
    layer = learnt(QLoRALinear.from_linear(nn.Linear(48, 32), METHODS[method]))
    eager, graphs, counts = copy.deepcopy(layer), CompileCounterWithBackend("inductor"), []
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=graphs)
    for length in LENGTHS:
        x = torch.randn(2, length, 48)
        assert torch.equal(compiled(x), eager(x))
        counts.append(graphs.frame_count)
    assert len(set(counts)) == 1, f"compiled again: {counts}"


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("lora", "aot_eager"),
        pytest.param("dora", "aot_eager", marks=SLOW),
        pytest.param("lora", "inductor", marks=SLOW),
    ],
)
def test_a_llama_and_its_gradients(model, rows, method: str, backend: str):
    """Inductor fuses, and so rounds otherwise than eager torch: the bound is the error rule's."""
    torch.manual_seed(0)
    model.config.num_hidden_layers, model.model.layers = 1, model.model.layers[:1]
    learnt(qk.prepare_model(model.train(), METHODS[method]))
    eager, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    graphs, counts = CompileCounterWithBackend(backend), []
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    for length in LENGTHS:
        ids = torch.stack([row["input_ids"][:length] for row in rows[:2]])
        results = []
        for net, owner in ((compiled, model), (eager, eager), (exact, exact)):
            loss = net(input_ids=ids, labels=ids, use_cache=False).loss
            results.append({"loss": loss.detach(), **gradients(owner, loss)})
        ours, plain, truth = results
        for name, value in truth.items():
            allowed = 8 * (plain[name] - value).norm() + 16 * torch.finfo().eps * value.norm()
            assert (ours[name] - value).norm() <= allowed, (length, name)
        counts.append(graphs.frame_count)
    assert len(set(counts)) == 1, f"compiled again: {counts}"
