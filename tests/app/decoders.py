"""Tiny models of the families that `DecoderStep` knows, with adapters that say something."""

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

import qlora_kernels as qk

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama, biases, one head for all": LlamaConfig(
        **SIZES | {"num_key_value_heads": 1}, attention_bias=True, mlp_bias=True
    ),
    "llama 3, tied head": LlamaConfig(**SIZES, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "mistral, wide heads": MistralConfig(**SIZES, head_dim=32, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=24),
}
ADAPTERS: dict[str, qk.QLoRAConfig] = {
    "none": qk.QLoRAConfig(targets=[]),
    "lora": qk.QLoRAConfig(rank=4, dropout=0.3, double_quant=False),
    "rslora on some": qk.QLoRAConfig(rank=3, rslora=True, targets=["q_proj", "up_proj"]),
    "dora": qk.QLoRAConfig(rank=4, dora=True, dropout=0.1, dropout_on="input"),
    "int8": qk.QLoRAConfig(rank=4, format={"v_proj": "int8", "*": "fp4"}),
}


def prepared(
    config: PreTrainedConfig, adapters: qk.QLoRAConfig, dtype: torch.dtype = torch.float32
) -> Any:
    """The same values for the same arguments; norms and biases other than a fresh model's."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, float("norm" in name), 0.3)
        else:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    qk.prepare_model(model, adapters)
    for name, parameter in qk.nn.adapter_parameters(model).items():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith("magnitude"):
            parameter.data.mul_(1.5)
    return model.eval()


def with_prompt(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, DynamicCache]:
    """Logits of the prompt's last token, and the cache that it has filled."""
    cache = DynamicCache(config=model.config)
    return model(tokens, past_key_values=cache).logits[:, -1], cache
