"""Adapters of every kind on the tiny Llama, made by stock peft."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

TINY = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"

# Name -> options of peft's LoraConfig.
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "r": 9},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 6},
        "alpha_pattern": {r"layers\.\d\.self_attn\.k_proj": 3},
    },
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "biases of adapted layers": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "norms saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "rows of tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 700]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}

# What peft and bitsandbytes warn of about transformers, torch and tied weights is not ours.
PEER_WARNINGS = [
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
    "ignore:Model has `tie_word_embeddings=True`.*:UserWarning",
    "ignore:Setting `save_embedding_layers`.*:UserWarning",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in PEER_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.cat([torch.tensor([3, 700]), torch.randint(1024, (46,), generator=generator)])[
        None
    ]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> folder of the model that it adapts: with biases where it trains them."""
    biased = tmp_path_factory.mktemp("biased")
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    config = copy.deepcopy(model.config)
    config.attention_bias = True
    other = LlamaForCausalLM(config)
    other.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.1)
    other.save_pretrained(biased)
    for file in TINY.glob("tokenizer*"):
        (biased / file.name).write_bytes(file.read_bytes())
    return lambda kind: biased if kind.startswith("bias") else TINY


def by_peft(base: Path, options: dict[str, Any]) -> nn.Module:
    """A stock peft model whose trainable parameters have all learnt something."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "lora_dropout": 0.1} | options
    torch.manual_seed(3)
    tuned = peft.get_peft_model(model, peft.LoraConfig(**chosen)).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                factor = "lora_magnitude" not in name
                noise = torch.randn(parameter.shape) * 0.1
                parameter.copy_(parameter + noise if factor else parameter * (1 + noise))
    return tuned


@torch.no_grad()
def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """In float64, where two ways to sum differ by nothing that matters."""
    return copy.deepcopy(model).double()(tokens).logits
