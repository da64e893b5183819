"""Factors on embeddings and the head: as in peft, in its files both ways, merged and unmerged."""

import copy
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import qlora_kernels as qk
from nn.conftest import exact_logits
from nn.test_adapter_files import trained
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, disable_adapters, parameter_groups

# peft tells of weights that it saves too, and asks for what transformers calls by another name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tied.*|.*tie_word_embeddings.*:UserWarning"),
]

CHOICES = pytest.mark.parametrize(
    "targets",
    [["q_proj", "embed_tokens"], ["q_proj", "lm_head"], ["down_proj", "embed_tokens", "lm_head"]],
    ids=["embedding", "head", "both"],
)
CONFIG = QLoRAConfig(rank=4, alpha=6, format="none")


@pytest.fixture
def untied(model: nn.Module) -> nn.Module:
    """The tiny model with a head of its own."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return model


def theirs_of(model: nn.Module, targets: list[str], **options: object) -> nn.Module:
    """peft's model, whose factors have learnt something."""
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=targets, **options
    )
    theirs = peft.get_peft_model(copy.deepcopy(model), lora).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return theirs


def assert_same_logits(left: nn.Module, right: nn.Module, tokens: torch.Tensor) -> None:
    logits = (exact_logits(model, tokens).float() for model in (left, right))
    torch.testing.assert_close(*logits)


@CHOICES
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_ours(untied, tokens, tmp_path: Path, targets: list[str], rslora: bool):
    base = copy.deepcopy(untied)
    patterns = {"alpha_pattern": {targets[-1]: 5}, "rank_pattern": {targets[-1]: 3}}
    config = replace(CONFIG, targets=targets, rslora=rslora, **patterns)
    qk.save_adapter(trained(untied, config), tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert all("lora_" in name for name in stored), "factors alone"
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert_same_logits(theirs, untied, tokens)


@CHOICES
def test_we_read_theirs(untied, tokens, tmp_path: Path, targets: list[str]):
    """peft writes the frozen weights too: a resized vocabulary comes along with them."""
    theirs = theirs_of(untied, targets)
    for name, module in theirs.named_modules():
        if name.endswith(("embed_tokens", "lm_head")):
            getattr(module, "base_layer", module).weight.data.mul_(1.01)
    theirs.save_pretrained(tmp_path)
    model = qk.prepare_model(copy.deepcopy(untied), replace(CONFIG, targets=targets))
    held = adapter_parameters(model)
    assert len(held) == sum(p.requires_grad for p in theirs.parameters())
    qk.load_adapter(model, tmp_path)
    for name in {"embed_tokens", "lm_head"} - {*targets}:  # what peft did not save
        module = model.lm_head if name == "lm_head" else model.model.embed_tokens
        module.weight.data.mul_(1.01)
    assert_same_logits(model, theirs, tokens)
    assert all(held[name] is parameter for name, parameter in adapter_parameters(model).items())


@CHOICES
def test_gradients_are_those_of_peft(untied, tokens, targets: list[str]):
    """In float64."""
    ours = qk.prepare_model(copy.deepcopy(untied), replace(CONFIG, targets=targets)).double()
    theirs = theirs_of(untied, targets).double()
    pairs = {}
    for name, parameter in theirs.named_parameters():
        if ".lora_" in name:
            layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
            letter = part.removeprefix("embedding_")[0].lower()
            factor = ours.get_submodule(layer).get_parameter(f"lora_{letter}")
            factor.data = parameter.detach().clone()
            pairs[name] = (factor, parameter)
    assert len(pairs) == len(adapter_parameters(ours))
    for model in (ours, theirs):
        model(tokens, labels=tokens).loss.backward()
    for name, (factor, parameter) in pairs.items():
        torch.testing.assert_close(factor.grad, parameter.grad, msg=name)


@CHOICES
def test_it_starts_from_the_base_and_can_be_turned_off(untied, tokens, targets: list[str]):
    before = exact_logits(untied, tokens)
    qk.prepare_model(untied, replace(CONFIG, targets=targets))
    torch.testing.assert_close(exact_logits(untied, tokens), before)
    for parameter in adapter_parameters(untied).values():
        nn.init.normal_(parameter, std=0.2)
    with disable_adapters(untied):
        torch.testing.assert_close(exact_logits(untied, tokens), before)


def test_a_step_moves_the_factors_and_nothing_else(untied, tokens):
    model = qk.prepare_model(untied, replace(CONFIG, targets=["embed_tokens"], format="nf4"))
    parameters = adapter_parameters(model)
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    seen = tokens[:, :-1].unique()  # nothing is predicted from the last one
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        model(tokens, labels=tokens).loss.backward()
        torch.optim.SGD(parameters.values(), lr=0.1).step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == set(parameters)
    changed = model.model.embed_tokens.lora_a.any(dim=0)
    assert changed.nonzero().flatten().tolist() == seen.tolist()
    groups = {g["name"] for g in parameter_groups(parameters, 1e-3, lora_plus_ratio=16)}
    assert groups == {"weights", "lora_b"}


@CHOICES
def test_merging_and_unmerging(untied, tokens, targets: list[str]):
    model = trained(untied, replace(CONFIG, targets=targets))
    tuned = exact_logits(model, tokens)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    qk.nn.merge_adapter(model)
    torch.testing.assert_close(exact_logits(model, tokens).float(), tuned.float())
    with pytest.raises(qk.InputError, match="should be unmerged"):
        qk.nn.merge_adapter(model)
    qk.nn.unmerge_adapter(model)
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())
    assert torch.equal(exact_logits(model, tokens), tuned)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_a_tied_one_must_be_untied(model, tokens, tmp_path, name: str):
    with pytest.raises(qk.InputError, match=f"{name} should have its own weight to be changed"):
        qk.prepare_model(model, replace(CONFIG, targets=[name]))
    tied = copy.deepcopy(model)
    before = exact_logits(model, tokens)
    trained(model, replace(CONFIG, targets=["q_proj", name], untie=True))
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings is False
    with disable_adapters(model):
        torch.testing.assert_close(exact_logits(model, tokens), before)
    qk.save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(tied), tmp_path).eval()
    assert_same_logits(theirs, model, tokens)
    plain = qk.prepare_model(tied, CONFIG)
    told = "own weight" if name == "embed_tokens" else "prepared for an adapter"
    with pytest.raises(qk.InputError, match=told):
        qk.load_adapter(plain, tmp_path)


def test_a_folder_without_them_takes_them_away(untied, tokens, tmp_path):
    config = replace(CONFIG, targets=["q_proj", "embed_tokens"])
    qk.save_adapter(trained(copy.deepcopy(untied), replace(config, targets=["q_proj"])), tmp_path)
    plain = qk.prepare_model(copy.deepcopy(untied), CONFIG)
    qk.load_adapter(plain, tmp_path)
    qk.load_adapter(trained(untied, config), tmp_path)
    assert len(adapter_parameters(untied)) == 2 * 4
    assert torch.equal(exact_logits(untied, tokens), exact_logits(plain, tokens))


def test_dora_of_an_embedding_is_refused(untied, tmp_path):
    with pytest.raises(
        qk.InputError, match=r"DoRA should be of linear layers, model\.embed_tokens"
    ):
        qk.prepare_model(untied, replace(CONFIG, targets=["embed_tokens"], dora=True))
    theirs_of(untied, ["embed_tokens"], use_dora=True).save_pretrained(tmp_path)
    with pytest.raises(qk.InputError, match="should be LoRA, DoRA of an embedding it is"):
        qk.load_adapter(qk.prepare_model(untied, CONFIG), tmp_path)


def test_layers_that_are_no_embedding_to_us_are_not_found(untied):
    class Odd(nn.Embedding):
        pass

    untied.model.embed_tokens = Odd(8, 128)
    with pytest.raises(qk.InputError, match="targets should match a linear layer"):
        qk.prepare_model(untied, replace(CONFIG, targets=["embed_tokens"]))
