"""Models that the short way must not take go the model's own way, and each for its own reason."""

import functools
import types
from contextlib import nullcontext

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GemmaConfig,
    MistralConfig,
    Qwen2Config,
    StaticCache,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

import qlora_kernels as qk
from app.decoders import ADAPTERS, CONFIGS, SIZES, prepared, with_prompt
from qlora import decoding
from qlora.decoder_checks import refusal

TOKENS = torch.arange(6)[None]


@pytest.fixture(autouse=True)
def quick(one_thread):
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    return prepared(CONFIGS["llama"], ADAPTERS["lora"])


def attention(model):
    return model.model.layers[1].self_attn


class OtherNorm(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden_states)


class OtherLinear(qk.nn.QLoRALinear):
    pass


def replace_forward(module) -> None:
    module.forward = types.MethodType(type(module).forward, module)


CHANGES = {
    "mlp is hooked": lambda m: m.model.layers[1].mlp.register_forward_hook(print),
    "down_proj is hooked": lambda m: m.model.layers[0].mlp.down_proj.register_forward_pre_hook(
        print
    ),
    "model is hooked": lambda m: m.model.register_forward_hook(print),
    "lm_head is hooked": lambda m: m.lm_head.register_forward_pre_hook(print),
    "act_fn is hooked": lambda m: m.model.layers[0].mlp.act_fn.register_forward_hook(print),
    "self_attn has another forward": lambda m: replace_forward(attention(m)),
    "mlp has another forward": lambda m: m.model.layers[0].mlp.compile(backend="eager"),
    "input_layernorm is a OtherNorm": lambda m: setattr(
        m.model.layers[1].input_layernorm, "__class__", OtherNorm
    ),
    "o_proj is a OtherLinear": lambda m: setattr(attention(m).o_proj, "__class__", OtherLinear),
    "q_proj is a Linear": lambda m: setattr(attention(m), "q_proj", torch.nn.Linear(64, 64).eval()),
    "the model is in training mode": lambda m: m.train(),
    "self_attn is in training mode": lambda m: attention(m).train(),
    "v_proj is in training mode": lambda m: attention(m).v_proj.train(),
    "attention is of the kind flex": lambda m: setattr(
        m.config, "_attn_implementation_internal", "flex_attention"
    ),
    "a norm or the embedding": lambda m: m.model.layers[1].post_attention_layernorm.bfloat16(),
    "the embedding is not of": lambda m: m.model.embed_tokens.bfloat16(),
    "the cache has other layers": lambda m: setattr(attention(m), "layer_idx", 0),
    "v_proj: a tensor is not": lambda m: setattr(
        attention(m).v_proj.lora_a, "data", attention(m).v_proj.lora_a.data.T.contiguous().T
    ),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_a_changed_model_is_refused(model, reason):
    _, cache = with_prompt(model, TOKENS)
    assert refusal(model, cache) is None
    CHANGES[reason](model)
    assert reason in refusal(model, cache)


def test_a_forward_replaced_in_its_class_is_refused(model, monkeypatch):
    _, cache = with_prompt(model, TOKENS)
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", OtherNorm.forward)
    assert "mlp has another forward" in refusal(model, cache)


def test_a_wrapped_forward_is_refused_whatever_its_name(model, monkeypatch):
    _, cache = with_prompt(model, TOKENS)
    own = modeling_llama.LlamaMLP.forward
    twice = functools.wraps(own)(lambda self, x: 2 * own(self, x))
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", twice)
    assert "mlp has another forward" in refusal(model, cache)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_another_attention_under_a_known_name_is_refused(model, monkeypatch, kind):
    model.set_attn_implementation(kind)
    _, cache = with_prompt(model, TOKENS)
    assert refusal(model, cache) is None
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, kind, lambda *_, **__: None)
    assert f"attention is of the kind {kind}, by" in refusal(model, cache)


def test_another_eager_attention_is_refused(model, monkeypatch):
    model.set_attn_implementation("eager")
    _, cache = with_prompt(model, TOKENS)
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", lambda *_, **__: None)
    assert "attention is of the kind eager, by" in refusal(model, cache)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=4, layer_types=["full_attention"] * 2),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ],
)
def test_a_window_is_refused_over_a_cache_that_keeps_all_tokens(config):
    model, cache = prepared(config, ADAPTERS["lora"]), DynamicCache()
    model(TOKENS, past_key_values=cache)
    assert "looks back 4 tokens" in refusal(model, cache)


def test_norms_of_heads_of_other_epsilons_are_refused():
    model = prepared(CONFIGS["qwen3"], ADAPTERS["lora"])
    _, cache = with_prompt(model, TOKENS)
    assert refusal(model, cache) is None
    attention(model).k_norm.variance_epsilon = 0.5
    assert "different epsilons" in refusal(model, cache)


def test_a_hook_on_all_modules_is_refused(model):
    _, cache = with_prompt(model, TOKENS)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "hooks watch every module" in refusal(model, cache)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("within", "reason"),
    [
        (lambda: qk.use_backend("reference"), "has forced another backend"),
        (lambda: torch.autocast("cpu", torch.bfloat16), "autocast is on"),
        (lambda: torch.profiler.profile(), "somebody watches"),
        (nullcontext, None),
    ],
)
def test_what_is_on_around_it_counts(model, within, reason):
    _, cache = with_prompt(model, TOKENS)
    with within():
        found = refusal(model, cache)
    assert found is reason is None or reason in found


def test_other_models_and_formats_are_refused():
    gemma = GemmaConfig(**SIZES, head_dim=16)
    for config, adapters, reason in (
        (gemma, qk.QLoRAConfig(targets=[]), "models of type gemma are not known"),
        (CONFIGS["llama"], qk.QLoRAConfig(format="none"), "the base weight is dense"),
    ):
        model = prepared(config, adapters)
        assert reason in refusal(model, with_prompt(model, TOKENS)[1])


def test_layers_of_different_sizes_are_refused(model):
    _, cache = with_prompt(model, TOKENS)
    mlp = model.model.layers[1].mlp
    for name, (k, n) in {"gate_proj": (64, 32), "up_proj": (64, 32), "down_proj": (32, 64)}.items():
        linear = torch.nn.Linear(k, n, bias=False).eval()
        setattr(mlp, name, qk.nn.QLoRALinear.from_linear(linear, ADAPTERS["lora"]))
    assert "layers have different sizes" in refusal(model, cache)


def caches(model):
    sliding = MistralConfig(**SIZES, sliding_window=4)
    return {
        "there are 2 sequences": with_prompt(model, TOKENS.repeat(2, 1))[1],
        "not that of a prompt": DynamicCache(config=model.config),
        "not the one that keeps all tokens": StaticCache(model.config, max_cache_len=9),
        "the one that keeps all": with_prompt(
            AutoModelForCausalLM.from_config(sliding).eval(), TOKENS
        )[1],
    }


def test_other_caches_are_refused(model):
    for reason, cache in caches(model).items():
        assert reason in refusal(model, cache)


def test_hooks_of_others_see_every_token(model):
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda _, x, y: seen.append(x[0].shape[1]))
    x = TOKENS
    options = {"attention_mask": torch.ones_like(x), "max_new_tokens": 5, "do_sample": False}
    model.generate(x, custom_generate=decoding.decoder(model), **options)
    assert seen == [x.shape[1], 1, 1, 1, 1]
