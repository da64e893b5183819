"""q, k and v, gate and up as one op call: the same results, fewer calls, nothing left behind."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import qlora_kernels as qk
from qlora_kernels.nn import (
    QLoRAConfig,
    QLoRALinear,
    adapter_parameters,
    quantized_layers,
    shared_input,
)
from qlora_kernels.nn.qlora_linear import forward_all
from qlora_kernels.nn.shared_input import SharedInput

CONFIG = QLoRAConfig(rank=4, alpha=8, dropout=0.2)
ALONE = replace(CONFIG, share_inputs=False)
NUM_BLOCKS = 4


def prepared(model: nn.Module, config: QLoRAConfig) -> nn.Module:
    """With adapters that have learnt something, the same ones for the same model."""
    torch.manual_seed(0)
    qk.prepare_model(copied := copy.deepcopy(model), config)
    for name, parameter in adapter_parameters(copied).items():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.1)
    return copied


class CountCalls(TorchDispatchMode):
    """Counts the library's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "qlora_kernels":
            self.calls.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def calls(model: nn.Module, tokens: torch.Tensor) -> list[str]:
    with torch.no_grad(), CountCalls() as mode:
        model(tokens)
    return mode.calls


def test_a_block_makes_four_calls_instead_of_seven(model, tokens):
    shared, alone = prepared(model, CONFIG).eval(), prepared(model, ALONE).eval()
    assert len(calls(alone, tokens)) == 7 * NUM_BLOCKS
    names = [name.rpartition(":")[2] for name in calls(shared, tokens)]
    block = ["qlora_linear_of_3", "qlora_linear", "qlora_linear_of_2", "qlora_linear"]
    assert names == block * NUM_BLOCKS


def test_logits_and_gradients_are_those_of_separate_calls(model, tokens):
    """In float64, where the order of a sum is nothing; dropout draws the same masks."""
    results = []
    for config in (CONFIG, ALONE):
        made = prepared(model, config).double().train()
        torch.manual_seed(1)
        logits = made(tokens).logits
        logits.square().mean().backward()
        results.append((logits, {n: p.grad for n, p in adapter_parameters(made).items()}))
    (logits, gradients), (expected, expected_gradients) = results
    assert torch.equal(logits, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_logits_have_the_same_bits_on_every_backend(model, tokens, backend: str):
    shared, alone = prepared(model, CONFIG).eval(), prepared(model, ALONE).eval()
    with torch.no_grad():
        assert torch.equal(shared(tokens).logits, alone(tokens).logits)


@pytest.mark.parametrize("wants_gradients", [False, True])
def test_it_is_compiled_in_one_graph(model, wants_gradients: bool):
    block = prepared(model, CONFIG).eval().model.layers[0].mlp
    x = torch.randn(2, 5, 128, requires_grad=wants_gradients)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), block(x))
    assert block.gate_proj.shared_input is None


def test_checkpointed_blocks_give_the_same_gradients(model, tokens):
    gradients = []
    for checkpointing in (False, True):
        made = prepared(model, CONFIG).train()
        if checkpointing:
            made.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(1)
        made(tokens, labels=tokens).loss.backward()
        gradients.append({n: p.grad for n, p in adapter_parameters(made).items()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_share_among_themselves(model, tokens, copied):
    shared = prepared(model, CONFIG).eval()
    twin = copied(shared)
    nn.init.zeros_(shared.model.layers[0].self_attn.k_proj.lora_b)
    with torch.no_grad():
        assert not torch.equal(twin(tokens).logits, shared(tokens).logits)
    assert len(calls(twin, tokens)) == 4 * NUM_BLOCKS


class Pair(nn.Module):
    """A feed-forward whose forward the test writes."""

    def __init__(self, run) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(32, 48), nn.Linear(32, 24)
        self.run = run

    def forward(self, x: torch.Tensor):
        return self.run(self, x)


def pair(run) -> nn.Module:
    """Prepared, with an adapter that has learnt something."""
    parent = nn.Sequential(Pair(run))
    qk.prepare_model(parent, replace(CONFIG, dropout=0.0))
    for layer in quantized_layers(parent).values():
        nn.init.normal_(layer.lora_b)
    return parent.eval()


def expected(parent: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each layer on its own."""
    return parent[0].gate_proj(x), parent[0].up_proj(x)


def test_a_layer_called_on_its_own_computes_on_its_own():
    parent, x = pair(lambda self, x: (self.gate_proj(x), self.up_proj(x))), torch.randn(3, 32)
    parent(x)
    before = parent[0].gate_proj(x), parent[0].up_proj(x)
    nn.init.zeros_(parent[0].up_proj.lora_b)
    assert torch.equal(parent[0].gate_proj(x), before[0])
    assert not torch.equal(parent[0].up_proj(x), before[1])


def test_x_changed_in_place_between_the_calls_is_read_again():
    def run(self, x):
        gate = self.gate_proj(x)
        return gate, self.up_proj(x.mul_(2))

    parent, x = pair(run), torch.randn(3, 32)
    with torch.no_grad():
        gate, up = parent(x.clone())
        assert torch.equal(gate, expected(parent, x)[0])
        assert torch.equal(up, expected(parent, 2 * x)[1])


def test_a_call_that_wants_gradients_is_not_served_by_one_that_did_not():
    def run(self, x):
        with torch.no_grad():
            gate = self.gate_proj(x)
        return gate, self.up_proj(x)

    parent, x = pair(run), torch.randn(3, 32, requires_grad=True)
    gate, up = parent(x)
    assert not gate.requires_grad and up.requires_grad


def test_two_inputs_give_each_layer_its_own():
    parent, x = pair(lambda self, x: (self.gate_proj(x), self.up_proj(x + 1))), torch.randn(3, 32)
    gate, up = parent(x)
    assert torch.equal(gate, expected(parent, x)[0])
    assert torch.equal(up, expected(parent, x + 1)[1])


def test_a_layer_called_twice_computes_twice():
    """With dropout each call draws a mask of its own."""
    parent = pair(lambda self, x: (self.gate_proj(x), self.gate_proj(x))).train()
    parent[0].gate_proj.dropout = 0.5
    first, second = parent(torch.randn(3, 32))
    assert not torch.equal(first, second)


def test_an_error_in_the_parent_leaves_nothing_behind():
    def run(self, x):
        self.gate_proj(x)
        raise RuntimeError("in the parent")

    parent = pair(run)
    with pytest.raises(RuntimeError, match="in the parent"):
        parent(torch.randn(3, 32))
    assert all(layer.shared_input is None for layer in quantized_layers(parent).values())


def test_a_wrapped_member_ends_the_sharing():
    parent, x = pair(lambda self, x: (self.gate_proj(x), self.up_proj(x))), torch.randn(3, 32)
    before = parent(x)
    parent[0].up_proj = nn.Sequential(parent[0].up_proj)
    after = parent(x)
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])


def test_inference_tensors_and_autocast_are_served():
    parent, x = pair(lambda self, x: (self.gate_proj(x), self.up_proj(x))), torch.randn(3, 32)
    with torch.inference_mode():
        gate, up = parent(torch.ones(3, 32))
        assert torch.equal(up, parent[0].up_proj(torch.ones(3, 32))) and gate.is_inference()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(y.dtype == torch.bfloat16 for y in parent(x))


def test_cross_attention_is_left_alone():
    block = nn.Module()
    block.encoder_attn = nn.Module()
    for name in ("q_proj", "k_proj", "v_proj"):
        block.encoder_attn.add_module(name, nn.Linear(32, 32))
    qk.prepare_model(block, CONFIG)
    assert qk.nn.share_inputs(block) == {} and not block.encoder_attn._forward_pre_hooks


def test_sharing_twice_changes_nothing(model):
    made = prepared(model, CONFIG)
    assert qk.nn.share_inputs(made) == {}
    alone = prepared(model, ALONE)
    found = qk.nn.share_inputs(alone)
    assert found["model.layers.0.self_attn"] == ("q_proj", "k_proj", "v_proj")
    assert len(found) == 2 * NUM_BLOCKS


def test_the_outputs_of_one_input_are_kept_until_they_are_taken():
    layers = [QLoRALinear.from_linear(nn.Linear(32, n), CONFIG) for n in (8, 16)]
    shared, x = SharedInput(layers), torch.randn(2, 32)
    shared.output(layers[0], x)
    assert list(shared.known[1]) == layers[1:]
    shared.output(layers[1], x)
    assert not shared.known[1]


def test_a_call_that_ends_within_another_keeps_its_own_outputs(monkeypatch):
    """As where two threads run one model: the kernel lets others run."""
    layers = [QLoRALinear.from_linear(nn.Linear(32, n), CONFIG) for n in (8, 16)]
    shared, first, second = SharedInput(layers), torch.randn(2, 32), torch.randn(2, 32)
    begun = []

    def interrupted(members, x):
        if not begun:
            begun.append(x)
            assert torch.equal(shared.output(layers[0], second), layers[0](second))
        return forward_all(members, x)

    monkeypatch.setattr(shared_input, "forward_all", interrupted)
    for x, layer in ((first, layers[0]), (second, layers[1]), (first, layers[1])):
        assert torch.equal(shared.output(layer, x), layer(x))
