"""Modules trained whole (modules_to_save): trained, and in peft's files both ways."""

import copy
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

import qlora_kernels as qk
from nn.conftest import exact_logits
from nn.test_adapter_files import trained
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, parameter_groups, quantized_layers

# peft asks transformers for what transformers calls by another name now.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tied.*|.*tie_word_embeddings.*:UserWarning"),
]

TARGETS = ["q_proj", "down_proj"]
CHOICES = pytest.mark.parametrize(
    "ends",
    [["lm_head"], ["model.norm"], ["embed_tokens", "layernorm"], ["lm_head", "1.self_attn.o_proj"]],
    ids=["head", "one norm", "embedding and norms", "head and a linear layer"],
)


@pytest.fixture
def untied(model: nn.Module) -> nn.Module:
    """The tiny model with a head of its own."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return model


def config(ends: list[str], **options: object) -> QLoRAConfig:
    fixed = {"rank": 4, "alpha": 8, "targets": TARGETS, "format": "none"}
    return QLoRAConfig(modules_to_save=ends, **(fixed | options))


def theirs_of(model: nn.Module, ends: list[str]) -> nn.Module:
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "modules_to_save": ends}
    lora = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    return peft.get_peft_model(copy.deepcopy(model), lora).eval()


def assert_same_logits(left: nn.Module, right: nn.Module, tokens: torch.Tensor) -> None:
    logits = (exact_logits(model, tokens).float() for model in (left, right))
    torch.testing.assert_close(*logits)


@CHOICES
def test_peft_reads_ours(untied, tokens, tmp_path: Path, ends: list[str]):
    base = copy.deepcopy(untied)
    model = trained(untied, config(ends))
    qk.save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert_same_logits(theirs, model, tokens)


@CHOICES
def test_we_read_theirs(untied, tokens, tmp_path: Path, ends: list[str]):
    theirs = theirs_of(untied, ends)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    model = qk.prepare_model(untied, config(ends))
    held = adapter_parameters(model)
    told = {n for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(held) == len(told), "as many are trained as in peft"
    qk.load_adapter(model, tmp_path)
    assert_same_logits(model, theirs, tokens)
    now = adapter_parameters(model)
    assert all(now[name] is held[name] and now[name].requires_grad for name in held)
    assert list(qk.nn.read_adapter_config(tmp_path).modules_to_save) == ends


def test_a_step_moves_them_and_nothing_else(untied, tokens):
    model = trained(untied, config(["lm_head", "model.norm"], format="nf4"))
    assert "lm_head" not in quantized_layers(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(tokens, labels=tokens).loss.backward()
    torch.optim.SGD(adapter_parameters(model).values(), lr=0.1).step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == set(adapter_parameters(model)) > {"lm_head.weight", "model.norm.weight"}


def test_they_are_not_decayed_towards_zero(untied):
    model = qk.prepare_model(untied, config(["lm_head"]))
    groups = parameter_groups(adapter_parameters(model), 1e-2, weight_decay=0.1)
    [undecayed] = [group["params"] for group in groups if not group["weight_decay"]]
    assert len(undecayed) == 1 and undecayed[0] is model.lm_head.weight


@pytest.mark.parametrize("end", ["lm_head", "embed_tokens"])
def test_a_tied_one_must_be_untied(model, tokens, end: str):
    with pytest.raises(qk.InputError, match=f"{end}.weight should have its own memory"):
        qk.prepare_model(model, config([end]))
    with pytest.raises(qk.InputError, match="should have its own memory"):
        qk.prepare_model(model, config(["lm_head", "embed_tokens"]))
    before = exact_logits(model, tokens)
    qk.prepare_model(model, config([end], untie=True))
    torch.testing.assert_close(exact_logits(model, tokens), before)
    head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
    assert head is not embedding and head.requires_grad != embedding.requires_grad
    assert model.config.tie_word_embeddings is False


def test_folders_that_do_not_fit_are_refused(untied, model, tokens, tmp_path):
    other = copy.deepcopy(untied)
    qk.save_adapter(trained(untied, config(["model.norm"])), tmp_path)
    plain = qk.prepare_model(copy.deepcopy(other), config([]))
    with pytest.raises(qk.InputError, match=r"model\.norm\.weight should be in a module that is"):
        qk.load_adapter(plain, tmp_path)
    more = qk.prepare_model(other, config(["model.norm", "lm_head"]))
    before = exact_logits(more, tokens)
    with pytest.raises(qk.InputError, match=r"should hold lm_head\.weight, which is trained"):
        qk.load_adapter(more, tmp_path)
    assert torch.equal(exact_logits(more, tokens), before)


def test_an_end_that_matches_nothing_is_refused(model):
    with pytest.raises(qk.InputError, match="modules_to_save should match a module, 'nrm'"):
        qk.prepare_model(model, config(["nrm"]))
    with pytest.raises(qk.InputError, match="modules_to_save should be a list of names"):
        config("lm_head")
