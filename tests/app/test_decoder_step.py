"""The short way of a token: the logits of the model's own forward, and its cache."""

import copy
from typing import Any

import pytest
import torch

import qlora_kernels as qk
from app.decoders import ADAPTERS, CONFIGS, prepared, with_prompt
from qlora import cache_room, decoding
from qlora.decoder_checks import refusal
from qlora.decoder_step import DecoderStep
from qlora.half_head import halve_head
from qlora_kernels.testing.error_rule import ErrorRule

NUM_TOKENS, PROMPT = 14, 5


@pytest.fixture(autouse=True)
def quick(one_thread):
    with torch.no_grad():
        yield


@pytest.fixture
def tokens():
    return torch.randint(128, (1, NUM_TOKENS), generator=torch.Generator().manual_seed(3))


def own_step(model: Any, cache: Any):
    def step(token: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return model(token, position_ids=position_ids, past_key_values=cache).logits

    return step


def logits_of(model: Any, tokens: torch.Tensor, make_step=DecoderStep, prompt: int = PROMPT):
    """Those of each token from the prompt's end on, and the cache."""
    first, cache = with_prompt(model, tokens[:, :prompt])
    if make_step is DecoderStep:
        assert refusal(model, cache) is None
    step, found = make_step(model, cache), [first]
    for i in range(prompt, tokens.shape[1]):
        found.append(step(tokens[:, i : i + 1], torch.tensor([[i]]))[:, -1])
    return torch.cat(found), cache


def truth(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """In float64, all at once."""
    exact = copy.deepcopy(model).double()
    return exact(tokens, use_cache=False).logits[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_logits_err_as_those_of_the_model(tokens, adapters, dtype, poison):
    rule = ErrorRule(dtype)
    for name, config in CONFIGS.items():
        model = prepared(config, ADAPTERS[adapters], dtype)
        exact = truth(model, tokens)[PROMPT - 1 :]
        ours, plain = (logits_of(model, tokens, make)[0] for make in (DecoderStep, own_step))
        rule.add(name, "logits", ours, plain, exact)
    rule.check()


@pytest.mark.parametrize("family", CONFIGS)
def test_the_model_goes_on_over_the_cache_of_the_step(tokens, family):
    model, rule = prepared(CONFIGS[family], ADAPTERS["lora"]), ErrorRule(torch.float32)
    _, cache = logits_of(model, tokens[:, :-2])
    _, expected = logits_of(model, tokens[:, :-2], own_step)
    assert cache.get_seq_length() == expected.get_seq_length() == NUM_TOKENS - 2
    ours, plain = (model(tokens[:, -2:], past_key_values=c).logits[0] for c in (cache, expected))
    rule.add(family, "logits", ours, plain, truth(model, tokens)[-2:])
    rule.check_each()


def test_a_prompt_of_one_token(tokens):
    model, rule = prepared(CONFIGS["llama"], ADAPTERS["dora"]), ErrorRule(torch.float32)
    ours, plain = (logits_of(model, tokens, make, 1)[0] for make in (DecoderStep, own_step))
    rule.add("one", "logits", ours, plain, truth(model, tokens))
    rule.check()


@pytest.mark.parametrize("least", [1, 3])
def test_the_room_grows(tokens, monkeypatch, least, poison):
    model = prepared(CONFIGS["qwen3"], ADAPTERS["lora"])
    expected, _ = logits_of(model, tokens.repeat(1, 4))
    monkeypatch.setattr(cache_room, "LEAST", least)
    found, cache = logits_of(model, tokens.repeat(1, 4))
    assert torch.equal(found, expected) and cache.get_seq_length() == 4 * NUM_TOKENS


def test_layers_left_out_by_the_config_are_left_out(tokens):
    model = prepared(CONFIGS["llama"], ADAPTERS["none"])
    whole, _ = logits_of(model, tokens)
    model.config.num_hidden_layers = 1
    part, _ = logits_of(model, tokens)
    expected, _ = logits_of(model, tokens, own_step)
    assert torch.equal(part.argmax(-1), expected.argmax(-1)) and not torch.equal(part, whole)


def test_the_scaling_of_an_attention_counts(tokens):
    model, rule = prepared(CONFIGS["llama"], ADAPTERS["none"]), ErrorRule(torch.float32)
    model.model.layers[0].self_attn.scaling *= 3
    ours, plain = (logits_of(model, tokens, make)[0] for make in (DecoderStep, own_step))
    rule.add("scaled", "logits", ours, plain, truth(model, tokens)[PROMPT - 1 :])
    rule.check()


def test_an_adapter_turned_off_is_left_out(tokens):
    model = prepared(CONFIGS["llama"], ADAPTERS["lora"])
    tuned, _ = logits_of(model, tokens)
    with qk.nn.disable_adapters(model):
        base, _ = logits_of(model, tokens)
        expected, _ = logits_of(model, tokens, own_step)
    assert (base - expected).norm() < (base - tuned).norm() / 1000


class Streamer:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, tokens: torch.Tensor) -> None:
        self.tokens += tokens.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def generated(model: Any, prompt: torch.Tensor, ours: bool, **options: Any) -> list[int]:
    torch.manual_seed(7)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        custom_generate=decoding.decoder(model, options.get("streamer")) if ours else None,
        **{"max_new_tokens": 24, "do_sample": False} | options,
    )
    return output[0, prompt.shape[1] :].tolist()


@pytest.fixture
def steps(monkeypatch):
    """How many tokens went the short way."""
    made: list[int] = []
    call = DecoderStep.__call__
    monkeypatch.setattr(DecoderStep, "__call__", lambda *a, **k: made.append(1) or call(*a, **k))
    return made


CHOICES: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 4.0},  # what knows nothing says the same again and again
    {"do_sample": True, "top_k": 0},
    {"do_sample": True, "top_p": 0.8},
)


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_generate_makes_the_tokens_of_transformers(tokens, steps, family, options):
    model = prepared(CONFIGS[family], ADAPTERS["lora"])
    for prompt in (tokens, tokens[:, :1]):
        ours, theirs = (generated(model, prompt, ours, **options) for ours in (True, False))
        assert ours == theirs and len(set(ours)) > 2
    assert len(steps) == 2 * 23  # the prompt makes the first token of each answer


def test_a_halved_head_goes_the_short_way(tokens, steps):
    model = prepared(CONFIGS["llama 3, tied head"], ADAPTERS["lora"])
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.half())
    whole = generated(model, tokens, True, **CHOICES[0])
    assert halve_head(model)
    halved = generated(model, tokens, True, **CHOICES[0])
    assert halved == whole and len(steps) == 2 * 23


def test_it_ends_with_the_end_of_text_and_streams(tokens, steps):
    model = prepared(CONFIGS["llama"], ADAPTERS["lora"])
    whole = generated(model, tokens, True)
    third = next(i for i in range(2, 24) if whole[i] not in whole[:i])
    steps.clear()
    streamer = Streamer()
    ended = generated(model, tokens, True, eos_token_id=whole[third], streamer=streamer)
    assert ended == whole[: third + 1] and len(steps) == third
    assert streamer.tokens == tokens[0].tolist() + ended and streamer.ended


def test_a_changed_adapter_counts_in_the_next_answer(tokens, steps):
    model = prepared(CONFIGS["llama"], ADAPTERS["dora"])
    layer = model.model.layers[0].mlp.down_proj
    first = generated(model, tokens, True, **CHOICES[0])
    for change in (
        lambda: layer.set_adapter(3 * layer.lora_a, 3 * layer.lora_b, 8.0),
        lambda: layer.set_adapter(layer.lora_a[:2], layer.lora_b[:, :2], 16.0),
        lambda: qk.nn.merge_adapter(model, force=True),
        lambda: qk.nn.unmerge_adapter(model),
        lambda: layer.remove_adapter(),
        lambda: setattr(layer.weight, "data", layer.weight.data.flip(0)),
    ):
        change()
        ours, theirs = (generated(model, tokens, ours, **CHOICES[0]) for ours in (True, False))
        assert ours == theirs != first
        first = ours
    assert len(steps) == 7 * 23
