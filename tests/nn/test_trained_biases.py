"""Biases as part of an adapter: trained, decayed never, and in peft's files both ways."""

import copy
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import qlora_kernels as qk
from nn.conftest import exact_logits
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, disable_adapters, parameter_groups

# peft asks transformers for what transformers calls by another name now.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers.*:UserWarning"),
]

TOKENS = torch.arange(60).view(2, 30)
TARGETS = ["c_attn", "c_proj"]
KINDS = pytest.mark.parametrize("bias", ["lora_only", "all"])


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    """Biases in every linear layer and every norm, none of them zero."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=48, vocab_size=100, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            nn.init.normal_(parameter, std=0.2)
    return model


def prepared(gpt2: nn.Module, bias: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    config = QLoRAConfig(rank=4, alpha=8, targets=TARGETS, format="none", bias=bias)
    return qk.prepare_model(copy.deepcopy(gpt2).to(dtype), config)


def trained(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(9)
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.2, generator=random)
    return model


def biases(model: nn.Module) -> set[str]:
    return {n for n in adapter_parameters(model) if n.endswith(".bias")}


def assert_same_logits(left: nn.Module, right: nn.Module) -> None:
    logits = (exact_logits(model, TOKENS).float() for model in (left, right))
    torch.testing.assert_close(*logits)


def theirs_of(gpt2: nn.Module, bias: str) -> nn.Module:
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=TARGETS, bias=bias
    )
    return peft.get_peft_model(copy.deepcopy(gpt2), config).eval()


@KINDS
def test_the_same_biases_are_trained_as_in_peft(gpt2, bias: str):
    model = prepared(gpt2, bias)
    theirs = {
        n.removeprefix("base_model.model.").replace(".base_layer", "")
        for n, p in theirs_of(gpt2, bias).named_parameters()
        if p.requires_grad and n.endswith(".bias")
    }
    assert theirs and biases(model) == theirs
    assert theirs == {
        n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n
    }


@KINDS
def test_peft_reads_ours(gpt2, tmp_path: Path, bias: str):
    model = trained(prepared(gpt2, bias))
    qk.save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(gpt2), tmp_path).eval()
    assert theirs.peft_config["default"].bias == bias
    assert_same_logits(theirs, model)
    with theirs.disable_adapter(), disable_adapters(model):
        assert_same_logits(theirs, model)


@KINDS
@pytest.mark.parametrize("before", ["none", "same"])
def test_we_read_theirs(gpt2, tmp_path: Path, bias: str, before: str):
    theirs = theirs_of(gpt2, bias)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    model = prepared(gpt2, bias if before == "same" else "none")
    held = adapter_parameters(model)
    qk.load_adapter(model, tmp_path)
    assert_same_logits(model, theirs)
    now = adapter_parameters(model)
    assert all(now[name] is held[name] and now[name].requires_grad for name in held)
    assert biases(model) == biases(prepared(gpt2, bias))
    assert qk.nn.read_adapter_config(tmp_path).bias == bias


def test_a_step_moves_every_bias_and_decays_none(gpt2):
    """In bfloat16, where the layer's bias is a float32 master that no cast touches."""
    model = trained(prepared(gpt2, "all", torch.bfloat16).to(torch.bfloat16))
    parameters = adapter_parameters(model)
    dtypes = {parameters[n].dtype for n in biases(model) if "ln_" not in n}
    assert dtypes == {torch.float32}
    groups = parameter_groups(parameters, 1e-2, weight_decay=0.1)
    [undecayed] = [group for group in groups if group["name"] == "undecayed"]
    assert {id(p) for p in undecayed["params"]} == {id(parameters[n]) for n in biases(model)}
    before = {n: p.detach().clone() for n, p in parameters.items()}
    model(TOKENS, labels=TOKENS).loss.backward()
    torch.optim.AdamW(groups).step()
    assert all(not torch.equal(before[n], p) for n, p in parameters.items())


def test_a_merged_model_keeps_its_biases(gpt2):
    model = trained(prepared(gpt2, "lora_only"))
    before = exact_logits(model, TOKENS).float()
    qk.nn.merge_adapter(model)
    torch.testing.assert_close(exact_logits(model, TOKENS).float(), before)


def test_the_base_s_biases_stay_as_they_were(gpt2):
    """The model that was prepared may share memory with others."""
    shared = copy.copy(gpt2.transformer.h[0].mlp.c_proj)
    layer = qk.nn.QLoRALinear.from_linear(shared, QLoRAConfig(format="none"))
    holder = nn.ModuleDict({"layer": layer})
    qk.nn.trained_biases.train_biases(holder, "all")
    layer.bias.data.fill_(7.0)
    assert not (shared.bias == 7.0).any()


def test_a_folder_that_does_not_fit_is_refused_and_nothing_changes(gpt2, tmp_path):
    qk.save_adapter(trained(prepared(gpt2, "lora_only")), tmp_path)
    model = prepared(gpt2, "all")
    before = exact_logits(model, TOKENS)
    with pytest.raises(qk.InputError, match=r"hold the bias of transformer\.h\.0\.ln_1, which"):
        qk.load_adapter(model, tmp_path)
    assert torch.equal(exact_logits(model, TOKENS), before)


def test_a_bias_without_a_place_is_refused(model, tmp_path):
    """The tiny Llama has no biases."""
    name = "model.layers.0.self_attn.q_proj"
    qk.prepare_model(model, QLoRAConfig(rank=4))
    folder = qk.nn.adapters_of(model)
    folder.biases[name] = torch.zeros(128)
    qk.formats.adapter_folder.write_adapter_folder(folder, tmp_path)
    with pytest.raises(qk.InputError, match=f"{name} should be a module with a bias, is not"):
        qk.load_adapter(model, tmp_path)


def test_an_unknown_word_is_refused():
    with pytest.raises(qk.InputError, match="QLoRAConfig: bias should be"):
        QLoRAConfig(bias="some")
