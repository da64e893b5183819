"""What people call on a peft model: it works over our layers, or it is refused in one line."""

import subprocess
import sys

import peft
import pytest
import torch
from peft.utils.hotswap import hotswap_adapter
from torch import nn
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from integrations.adapters import IGNORED, base, float_copy, lora, ours, randomized, stock
from integrations.conftest import TINY, TOKENS, dense, logits
from qlora_kernels.integrations.peft import QuantizedLoraLinear, get_peft_model

pytestmark = pytest.mark.filterwarnings(IGNORED)


def assert_close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def two_adapters(**second: object) -> peft.PeftModel:
    model = ours().eval()
    model.add_adapter("second", lora(r=2, **second))
    return randomized(model, "second")


def test_plain_peft_takes_our_layer():
    model = peft.get_peft_model(base(), lora())
    layers = [m for m in model.modules() if isinstance(m, QuantizedLoraLinear)]
    assert len(layers) == 4 * 7, "all-linear, without the head"


def test_a_freshly_prepared_model_makes_room():
    model = qk.prepare_model(dense(), qk.QLoRAConfig(rank=4))
    wrapped = peft.get_peft_model(model, lora()).eval()
    trained = {n for n, p in wrapped.named_parameters() if p.requires_grad}
    assert trained and all(".lora_A." in n or ".lora_B." in n for n in trained)
    assert torch.equal(logits(wrapped), logits(base()))


def test_a_trained_adapter_of_its_own_is_refused():
    model = qk.prepare_model(dense(), qk.QLoRAConfig(rank=4))
    nn.init.normal_(qk.nn.quantized_layers(model)["model.layers.3.mlp.up_proj"].lora_b)
    with pytest.raises(qk.InputError, match="without adapters of their own"):
        get_peft_model(model, lora())


def test_switching_between_adapters():
    model = two_adapters(use_dora=True)
    first = logits(model)
    model.set_adapter("second")
    second = logits(model)
    assert not torch.equal(first, second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base()))
    model.set_adapter("second")
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)


@pytest.mark.parametrize("training", [False, True])
def test_two_active_adapters_add_up_as_in_peft(training: bool):
    model = two_adapters()
    twin = stock(model)
    twin.add_adapter("second", lora(r=2))
    twin.load_state_dict({n: t for n, t in model.state_dict().items() if "lora" in n}, strict=False)
    for one in (model, twin):
        one.train(training)
        one.base_model.set_adapter(["default", "second"])
        one(TOKENS, labels=TOKENS).loss.backward()
    assert_close(logits(model), logits(twin))
    for name, parameter in twin.named_parameters():
        if parameter.requires_grad:
            assert_close(model.get_parameter(name).grad, parameter.grad)


def test_a_batch_of_several_adapters():
    model = two_adapters()
    alone = []
    for name in ("default", "second"):
        model.set_adapter(name)
        alone.append(logits(model))
    with torch.no_grad():
        mixed = model(TOKENS, adapter_names=["second", "default"]).logits
        plain = model(TOKENS, adapter_names=["__base__", "__base__"]).logits
    assert_close(mixed, torch.stack([alone[1][0], alone[0][1]]))
    assert_close(plain, logits(base()))


def test_scales_can_be_changed():
    model = ours(lora(use_dora=True)).eval()
    twin = stock(model)
    for one in (model.train(), twin.train()):
        one(TOKENS)  # DoRA's norm is kept from here on
        for module in one.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.set_scale("default", 0.25)
    assert_close(logits(model), logits(twin))


def test_hotswapping(tmp_path):
    other = ours().eval()
    other.save_pretrained(tmp_path)
    expected = logits(other)
    model = ours(trained=False).eval()
    assert not torch.equal(logits(model), expected)
    hotswap_adapter(model, tmp_path, adapter_name="default")
    assert torch.equal(logits(model), expected)


def test_modules_to_save():
    model = ours(lora(modules_to_save=["model.norm"]), trained=False)
    assert {n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n} == {
        "base_model.model.model.norm.modules_to_save.default.weight"
    }
    with pytest.raises(qk.InputError, match=r"should be dense, .*v_proj is quantized"):
        get_peft_model(base(), lora(target_modules=["q_proj"], modules_to_save=["v_proj"]))


def test_what_peft_tells_about_the_model(capsys):
    model, twin = ours(), stock(ours())
    model.print_trainable_parameters()
    told = capsys.readouterr().out
    twin.print_trainable_parameters()
    assert told == capsys.readouterr().out, "weights are counted, not bytes"
    status = model.get_layer_status()
    assert len(status) == 4 * 7 and {layer.module_type for layer in status} == {
        "lora.QuantizedLoraLinear"
    }
    assert {layer.enabled for layer in status} == {True}
    assert model.get_model_status().trainable_params == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def test_it_compiles_in_one_graph():
    layer = next(m for m in ours(lora(use_dora=True)).modules() if type(m) is QuantizedLoraLinear)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for m in (3, 5):
        x = torch.randn(m, 128)
        assert_close(compiled(x), layer(x))


def test_generation():
    tokens = ours().generate(input_ids=TOKENS[:1, :8], max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights should be one of .*was 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights should be one of .*was 'olora'"),
        ({"use_qalora": True}, "use_qalora should be False"),
        ({"target_parameters": ["q_proj.weight"], "target_modules": ["k_proj"]}, "target_param"),
        ({"alora_invocation_tokens": [5]}, "unsupported variant combination"),
    ],
)
def test_what_an_adapter_cannot_be(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        get_peft_model(base(), lora(**options))


def test_what_a_model_cannot_be():
    with pytest.raises(qk.InputError, match="should hold quantized layers"):
        get_peft_model(dense(), lora())
    with pytest.raises(qk.InputError, match="should be a LoraConfig, was IA3Config"):
        get_peft_model(base(), peft.IA3Config(target_modules=["q_proj"]))
    with pytest.raises(qk.InputError, match="quantize should be None"):
        get_peft_model(base(), lora(), quantize=qk.integrations.transformers.NF4Config())


def test_other_models_are_peft_s_own():
    model = peft.get_peft_model(float_copy(), lora())
    assert not any(isinstance(module, QuantizedLoraLinear) for module in model.modules())
    plain = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    count = sum(p.numel() for p in plain.parameters())
    trained, every = model.get_nb_trainable_parameters()
    assert every == count + trained


def test_attributes_are_imported_when_named():
    program = """
import sys
import qlora_kernels as qk
assert not {"peft", "transformers"} & sys.modules.keys()
assert qk.integrations.peft.get_peft_model and "peft" in sys.modules
assert qk.integrations.transformers.NF4Config
try:
    qk.integrations.keras
except AttributeError as error:
    assert "keras" in str(error)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
