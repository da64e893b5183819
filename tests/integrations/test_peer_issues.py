"""What is open with the peers, and holds here: tests are named after their issues."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import qlora_kernels as qk
from integrations.adapters import IGNORED, base, lora, ours, randomized
from integrations.conftest import TOKENS, assert_same_state, dense, logits
from qlora_kernels.nn import QLoRALinear, quantized_layers

pytestmark = pytest.mark.filterwarnings(IGNORED)


@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_bias": True}], ids=str)
@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed but:UserWarning")
def test_peft_3761_one_adapter_of_weight_1_is_itself(kind: str, options: dict[str, object]):
    """peft's `add_weighted_adapter` scales rsLoRA once more and drops the biases of B."""
    model = ours(lora(**options)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B.default.bias"):
            nn.init.normal_(parameter)
    expected = logits(model)
    assert not torch.allclose(expected, logits(base()))
    model.add_weighted_adapter(["default"], [1.0], "combined", combination_type=kind)
    model.set_adapter("combined")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_peft_3761_two_rslora_adapters_add_up(tmp_path):
    model = ours(lora(use_rslora=True)).eval()
    model.add_adapter("second", lora(use_rslora=True, r=2))
    randomized(model, "second")
    model.base_model.set_adapter(["default", "second"])
    expected = logits(model)
    model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "both", combination_type="cat")
    model.set_adapter("both")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    again = qk.prepare_model(base(), qk.QLoRAConfig(rank=6))
    qk.load_adapter(again, tmp_path / "both")
    torch.testing.assert_close(logits(again.eval()), expected, rtol=1e-4, atol=1e-4)


def test_peft_3761_dora_is_refused():
    """Magnitudes do not add up, so there is no adapter to return."""
    with pytest.raises(qk.InputError, match="adapters should be LoRA, default is DoRA"):
        ours(lora(use_dora=True)).add_weighted_adapter(["default"], [1.0], "combined")


@pytest.mark.parametrize("config", [{}, {"double_quant": False}, {"format": "int8"}], ids=str)
def test_bitsandbytes_1946_a_state_dict_loads_into_a_fresh_layer(config: dict[str, object]):
    """bitsandbytes' Linear4bit writes keys that no load_state_dict of its own consumes."""
    config = qk.QLoRAConfig(rank=4, **config)
    written = QLoRALinear.from_linear(nn.Linear(48, 40), config).eval()
    nn.init.normal_(written.lora_b)
    x = torch.randn(3, 48)
    expected = written(x)  # after a forward in eval mode, which repacks theirs on some CPUs
    fresh = QLoRALinear.from_linear(nn.Linear(48, 40), config).eval()
    assert not torch.equal(fresh(x), expected)
    result = fresh.load_state_dict(written.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(fresh(x), expected)


def test_bitsandbytes_1946_a_whole_model_too():
    written = ours(lora(use_dora=True)).eval()
    expected = logits(written)
    other = dense()
    nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
    config = qk.integrations.transformers.NF4Config()
    fresh = qk.integrations.peft.get_peft_model(other, lora(use_dora=True), quantize=config).eval()
    fresh.load_state_dict(written.state_dict(), strict=True)
    assert_same_state(fresh, written)
    assert torch.equal(logits(fresh), expected)


def test_bitsandbytes_1946_another_format_is_refused():
    """The shapes of NF4 and FP4 are the same: loading one as the other would be garbage."""
    layers = [
        QLoRALinear.from_linear(nn.Linear(64, 64), qk.QLoRAConfig(format=f)) for f in ("nf4", "fp4")
    ]
    with pytest.raises(qk.InputError, match=r"should hold .*fp4.*, holds .*nf4"):
        layers[1].load_state_dict(layers[0].state_dict())


class Streamed(nn.Module):
    """A layer in memory that others share with it: its bytes are put there when it runs."""

    def __init__(self, layer: nn.Module, pool: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.pool = layer, pool
        inner = next(m for m in layer.modules() if isinstance(m, QLoRALinear))
        self.own = {n: t.detach().clone() for n, t in frozen(inner).items()}
        inner.weight = nn.Parameter(pool["weight"], requires_grad=False)
        for name in pool.keys() - {"weight"}:
            setattr(inner, name, pool[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, tensor in self.pool.items():
            tensor.data.copy_(self.own[name])  # behind autograd's back, as a transfer engine does
        return self.layer(x)


def frozen(layer: QLoRALinear) -> dict[str, torch.Tensor]:
    names = ("weight", "scales", "nested_absmax", "nested_offset")
    return {name: getattr(layer, name) for name in names}


@pytest.mark.parametrize("dora", [False, True])
def test_bitsandbytes_2034_checkpointing_sees_what_backward_reads(dora: bool):
    """Layers streamed through one buffer, checkpointed: gradients are those of resident layers.

    What an op keeps beside its saved tensors survives from the first forward, and is another
    layer's bytes by the time of backward.
    """
    model = ours(lora(use_dora=dora)).train()
    layers = nn.ModuleList(
        model.base_model.model.model.layers[i].self_attn.q_proj for i in range(3)
    )
    resident, streamed = copy.deepcopy(layers), copy.deepcopy(layers)
    first = next(iter(quantized_layers(streamed).values()))
    pool = {name: torch.empty_like(tensor) for name, tensor in frozen(first).items()}
    window = [Streamed(layer, pool) for layer in streamed]
    x = torch.randn(5, 128)
    gradients = []
    for stack in (resident, window):
        y = start = x.clone().requires_grad_()
        for layer in stack:
            y = checkpoint(layer, y, use_reentrant=False)
        y.square().sum().backward()
        gradients.append([start.grad])
    for one, other in zip(resident.parameters(), streamed.parameters(), strict=True):
        if one.requires_grad:
            gradients[0].append(one.grad)
            gradients[1].append(other.grad)
    assert len(gradients[0]) == 1 + 3 * (3 if dora else 2)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_bitsandbytes_2034_everything_is_saved_through_autograd():
    """A hook on saved tensors (offloading) sees the codes and scales of every layer."""
    model = ours().train()
    seen = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        seen.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(TOKENS, labels=TOKENS).loss.backward()
    for name, layer in quantized_layers(model).items():
        assert layer.weight.data_ptr() in seen and layer.scales.data_ptr() in seen, name
