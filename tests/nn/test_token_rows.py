"""Rows of some tokens: trained while the embedding stays frozen, in peft's files both ways."""

import copy
import pickle
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM

import qlora_kernels as qk
from nn.conftest import exact_logits
from nn.test_adapter_files import trained
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, disable_adapters, parameter_groups
from qlora_kernels.nn.token_rows import TokenHead

# peft asks transformers for what transformers calls by another name now.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TARGETS, TOKENS = ["q_proj", "down_proj"], [700, 3, 9]
PLACES = pytest.mark.parametrize(
    "told", [TOKENS, {"embed_tokens": TOKENS}], ids=["a list", "by name"]
)


def config(told, **options: object) -> QLoRAConfig:
    fixed = {"rank": 4, "alpha": 8, "targets": TARGETS, "format": "none"}
    return QLoRAConfig(trainable_tokens=told, **(fixed | options))


def theirs_of(model: nn.Module, told) -> nn.Module:
    """peft's model, and what it trains has learnt something."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "trainable_token_indices": told}
    lora = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    theirs = peft.get_peft_model(copy.deepcopy(model), lora).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return theirs


@pytest.fixture
def said() -> torch.Tensor:
    """Text with the tokens in it."""
    text = torch.randint(4, 1024, (2, 24), generator=torch.Generator().manual_seed(6))
    text[:, 3:6] = torch.tensor(TOKENS)
    return text


@pytest.fixture
def untied(model: nn.Module) -> nn.Module:
    """The tiny model with a head of its own."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return model


@pytest.fixture(params=["tied", "untied"])
def either(request, model) -> nn.Module:
    return request.getfixturevalue("untied") if request.param == "untied" else model


def assert_same_logits(left: nn.Module, right: nn.Module, tokens: torch.Tensor) -> None:
    logits = (exact_logits(model, tokens).float() for model in (left, right))
    torch.testing.assert_close(*logits)


@PLACES
def test_peft_reads_ours(either, said, tmp_path: Path, told):
    base = copy.deepcopy(either)
    qk.save_adapter(trained(either, config(told)), tmp_path)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert_same_logits(theirs, either, said)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    [rows] = [tensor for name, tensor in stored.items() if "lora_" not in name]
    assert list(rows.shape) == [3, 128], "no copy of the embedding"


@PLACES
def test_we_read_theirs(either, said, tmp_path: Path, told):
    theirs = theirs_of(either, told)
    theirs.save_pretrained(tmp_path)
    model = qk.prepare_model(copy.deepcopy(either), config(()))
    qk.load_adapter(model, tmp_path)
    assert_same_logits(model, theirs, said)
    again = qk.prepare_model(copy.deepcopy(either), config(told))
    held = adapter_parameters(again)
    assert len(held) == sum(p.requires_grad for p in theirs.parameters())
    qk.load_adapter(again, tmp_path)
    assert_same_logits(again, theirs, said)
    assert all(held[name] is parameter for name, parameter in adapter_parameters(again).items())


def test_rows_of_a_head_alone(untied, said, tmp_path):
    theirs = theirs_of(untied, {"lm_head": [5, 3]})
    theirs.save_pretrained(tmp_path)
    model = qk.prepare_model(copy.deepcopy(untied), config({"lm_head": [3, 5]}))
    qk.load_adapter(model, tmp_path)
    assert_same_logits(model, theirs, said)
    qk.save_adapter(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(untied, tmp_path / "ours").eval()
    assert_same_logits(model, again, said)


def test_gradients_are_those_of_peft(either, said):
    """In float64; the padding token, which has a row, learns from the head alone."""
    either.model.embed_tokens.padding_idx = TOKENS[0]
    ours = trained(copy.deepcopy(either), config(TOKENS)).double()
    theirs = theirs_of(either, sorted(TOKENS)).double()
    their_rows = theirs.get_input_embeddings().token_adapter.trainable_tokens_delta["default"]
    our_rows = ours.model.embed_tokens.token_rows.rows
    our_rows.data = our_rows.data.double()
    for name, parameter in theirs.named_parameters():
        if ".lora_" in name:
            layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
            factor = ours.get_submodule(layer).get_parameter(f"lora_{part[0].lower()}")
            factor.data = parameter.detach().clone()
    our_rows.data.copy_(their_rows)
    for model in (ours, theirs):
        model(said, labels=said).loss.backward()
    torch.testing.assert_close(our_rows.grad, their_rows.grad)


def test_a_step_moves_the_rows_and_nothing_else(model, said):
    qk.prepare_model(model, config(TOKENS, format="nf4"))
    parameters = adapter_parameters(model)
    name = "model.embed_tokens.token_rows.rows"
    assert parameters[name].dtype == torch.float32 and list(parameters[name].shape) == [3, 128]
    [undecayed] = [g for g in parameter_groups(parameters, 1e-2) if g["name"] == "undecayed"]
    assert undecayed["params"][0] is parameters[name]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        model(said, labels=said).loss.backward()
        torch.optim.SGD(parameters.values(), lr=0.1).step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == set(parameters)


def test_it_starts_from_the_base_and_can_be_turned_off(either, said):
    before = exact_logits(either, said)
    qk.prepare_model(either, config(TOKENS))
    torch.testing.assert_close(exact_logits(either, said), before)
    nn.init.normal_(adapter_parameters(either)["model.embed_tokens.token_rows.rows"])
    assert (exact_logits(either, said) - before).abs().max() > 0.1
    with disable_adapters(either):
        torch.testing.assert_close(exact_logits(either, said), before)


def test_the_tied_head_follows_and_another_does_not(either):
    follows = either.config.tie_word_embeddings
    qk.prepare_model(either, config(TOKENS))
    assert isinstance(either.lm_head, TokenHead) is follows
    assert sum("token_rows" in name for name in adapter_parameters(either)) == 1
    assert (either.lm_head.weight is either.model.embed_tokens.weight) is follows


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_the_tie(model, said, copied):
    twin = copied(trained(model, config(TOKENS)))
    assert twin.lm_head.token_rows is twin.model.embed_tokens.token_rows
    assert_same_logits(twin, model, said)
    twin.to(torch.bfloat16)
    assert twin.lm_head.token_rows.rows.dtype == torch.float32
    assert twin(said).logits.dtype == torch.bfloat16


def test_merging_and_unmerging(either, said):
    model = trained(either, config(TOKENS))
    tuned, weight = exact_logits(model, said), model.model.embed_tokens.weight.clone()
    qk.nn.merge_adapter(model)
    torch.testing.assert_close(exact_logits(model, said).float(), tuned.float())
    rows = model.model.embed_tokens.token_rows.rows
    assert torch.equal(model.model.embed_tokens.weight[sorted(TOKENS)], rows)
    with pytest.raises(qk.InputError, match="set_rows: the layer should be unmerged"):
        model.model.embed_tokens.set_rows([1])
    qk.nn.unmerge_adapter(model)
    assert torch.equal(model.model.embed_tokens.weight, weight)
    assert torch.equal(exact_logits(model, said), tuned)


def test_a_folder_without_rows_takes_them_away(model, said, tmp_path):
    qk.save_adapter(trained(copy.deepcopy(model), config(())), tmp_path)
    plain = qk.prepare_model(copy.deepcopy(model), config(()))
    qk.load_adapter(plain, tmp_path)
    rows = trained(model, config(TOKENS))
    qk.load_adapter(rows, tmp_path)
    assert not any("token_rows" in name for name in adapter_parameters(rows))
    assert torch.equal(exact_logits(rows, said), exact_logits(plain, said))


def test_an_embedding_that_scales(said, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "vocab_size": 1024}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 1}
    gemma = GemmaForCausalLM(GemmaConfig(**sizes, **heads)).eval()
    base = copy.deepcopy(gemma)
    before = exact_logits(gemma, said)
    qk.prepare_model(gemma, config(TOKENS))
    torch.testing.assert_close(exact_logits(gemma, said), before)
    for parameter in adapter_parameters(gemma).values():
        nn.init.normal_(parameter, std=0.2)
    qk.save_adapter(gemma, tmp_path)
    assert_same_logits(peft.PeftModel.from_pretrained(base, tmp_path).eval(), gemma, said)


REFUSED = {
    "tokens of model.embed_tokens should be below 1024, has 1024": config([1024]),
    "tokens of model.embed_tokens should be below 1024, has -1": config([-1]),
    "tokens of model.embed_tokens should be different ones": config([3, 3]),
    "'embed_token' matches none; nearest: embed_tokens": config({"embed_token": [3]}),
    "q_proj should be trained by rows of tokens alone": config({"0.self_attn.q_proj": [3]}),
    "embed_tokens should be trained by rows of tokens alone, is quantized, adapted or": config(
        [3], modules_to_save=["embed_tokens"], untie=True
    ),
    "should name model.embed_tokens, whose weight lm_head shares": config({"lm_head": [3]}),
    "should have rows for the same tokens": config({"lm_head": [3], "embed_tokens": [4]}),
    "model.norm should be an embedding or a dense head, was LlamaRMSNorm": config(
        {"model.norm": [3]}
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_is_refused_before_anything_changes(model, text: str):
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(qk.InputError) as refusal:
        qk.prepare_model(model, REFUSED[text])
    assert text in str(refusal.value) and "\n" not in str(refusal.value)
    assert {name: type(module) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("told", ["ab", [1.5], ["a"], 7, {"embed_tokens": []}, [True]])
def test_what_is_no_list_of_tokens_is_refused(told):
    with pytest.raises(qk.InputError, match="trainable_tokens should be a list of token ids"):
        config(told)


def test_rows_of_another_vocabulary_are_refused(model, loaded, tmp_path):
    qk.save_adapter(trained(model, config(TOKENS)), tmp_path)
    small = copy.deepcopy(loaded)
    small.model.embed_tokens = nn.Embedding(600, 128)
    qk.prepare_model(small, config(()))
    with pytest.raises(qk.InputError, match=r"tokens of model\.embed_tokens should be below 600"):
        qk.load_adapter(small, tmp_path)


def test_embedding_and_head_are_compiled_in_one_graph(model, said):
    qk.prepare_model(trainable := copy.deepcopy(model), config(TOKENS))
    for parameter in adapter_parameters(trainable).values():
        nn.init.normal_(parameter, std=0.2)
    embedding, head = trainable.model.embed_tokens, trainable.lm_head
    for module, x in ((embedding, said), (head, embedding(said).detach())):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        y, expected = compiled(x), module(x)
        assert torch.equal(y, expected)
        rows = module.token_rows.rows
        dy = torch.randn_like(y)
        gradients = [torch.autograd.grad(out, rows, dy)[0] for out in (y, expected)]
        torch.testing.assert_close(*gradients)
