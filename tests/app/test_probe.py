"""Models of a few random weights, of kinds whose loss a plain head would get wrong."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

import qlora_kernels as qk
from qlora.probe import check_model
from qlora_kernels.errors import InputError

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def with_large_logits(model):
    """As trained weights have: capping shows only then."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(50)
    return model


def refusal(model, sequence_length=16, packing=True) -> str:
    with pytest.raises(InputError) as error:
        check_model(model, sequence_length, packing)
    return str(error.value)


def test_a_llama_passes(model):
    check_model(model, 512, packing=True)
    assert not model.training


def test_gpt2_passes():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2)).train()
    check_model(model, 64, packing=True)
    assert model.training


def test_sliding_windows_pass():
    check_model(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)), 64, packing=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16)),
        lambda: CohereForCausalLM(CohereConfig(**SIZES)),
        lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
        lambda: PhiForCausalLM(PhiConfig(**SIZES)),
    ],
    ids=["capped", "scaled", "divided", "biased"],
)
def test_other_logits_are_refused(make):
    model = with_large_logits(make())
    head = model.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.ones_(head.bias)
    text = refusal(model)
    assert text.startswith("model: logits should be the head applied to the last hidden states")
    assert type(model).__name__ in text


def test_a_recurrent_model_trains_only_unpacked():
    sizes = {"vocab_size": 64, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
    model = MambaForCausalLM(MambaConfig(**sizes)).eval()
    torch.nn.init.normal_(model.backbone.embeddings.weight)
    assert "MambaForCausalLM should keep packed examples apart" in refusal(model)
    check_model(model, 64, packing=False)


def test_rows_longer_than_the_positions_are_refused(model):
    assert refusal(model, 513) == (
        "model: sequence_length should be at most the 512 positions of the model, was 513"
    )


@pytest.mark.parametrize(
    "config",
    [
        qk.QLoRAConfig(quantize_head=True, untie=True),
        qk.QLoRAConfig(targets=["lm_head", "embed_tokens"], untie=True),
        qk.QLoRAConfig(trainable_tokens=[3, 700]),
    ],
    ids=["quantized", "adapted", "rows of tokens"],
)
def test_a_head_that_is_more_than_a_weight_passes(model, config):
    check_model(qk.prepare_model(model, config), 16, packing=True)


def test_a_model_without_head_is_refused(model):
    assert "should be a causal LM" in refusal(model.base_model)
