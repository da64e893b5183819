"""Adapters go to peft and come from it: the same folder gives the same logits in both.

peft works on a dense model, so the base here is unquantized (format "none") or, for a quantized
one, a dense twin that holds the dequantized weights.
"""

import copy
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners import tuners_utils
from torch import nn

import qlora_kernels as qk
from nn.conftest import dequantized_into, exact_logits
from nn.test_adapter_files import trained
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, quantized_layers

# peft asks transformers for what transformers calls by another name now.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

CONFIGS = {
    "all-linear": QLoRAConfig(rank=4, alpha=8, format="none"),
    "two layers": QLoRAConfig(rank=8, alpha=8, targets=["q_proj", "v_proj"], format="none"),
    "rslora": QLoRAConfig(rank=9, alpha=5, rslora=True, format="none"),
    "patterns": QLoRAConfig(
        rank=4,
        alpha=8,
        targets=r".*layers\.(0|2)\..*",
        rank_pattern={r"mlp\..*": 2, "q_proj": 3},
        alpha_pattern={"k_proj": 1.5},
        format="none",
    ),
    "quantized": QLoRAConfig(rank=4, alpha=8),
    "dora": QLoRAConfig(rank=4, alpha=8, dora=True, rslora=True, format="none"),
    "qdora": QLoRAConfig(rank=4, alpha=8, dora=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_peft_reads_ours(model, loaded, tokens, tmp_path: Path, name: str):
    qk.save_adapter(trained(model, CONFIGS[name]), tmp_path)
    theirs = peft.PeftModel.from_pretrained(dequantized_into(model, loaded), tmp_path).eval()
    assert_same_logits(theirs, model, tokens)
    assert not torch.allclose(exact_logits(theirs, tokens), exact_logits(loaded, tokens))
    names = {n.partition(".lora_")[0] for n, _ in theirs.named_parameters() if ".lora_" in n}
    ours = {name.rpartition(".")[0] for name in adapter_parameters(model)}
    assert len(names) == len(ours), "no layer more, none less"


def assert_same_logits(left: nn.Module, right: nn.Module, tokens: torch.Tensor) -> None:
    """To float32's digits: a norm of float32 factors is float32, whatever x is."""
    logits = (exact_logits(model, tokens).float() for model in (left, right))
    torch.testing.assert_close(*logits)


def their_adapter(loaded: nn.Module, **options: object) -> nn.Module:
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **options)
    theirs = peft.get_peft_model(copy.deepcopy(loaded), config).eval()
    random = torch.Generator().manual_seed(3)
    for parameter_name, parameter in theirs.named_parameters():
        if ".lora_" in parameter_name:
            nn.init.normal_(parameter, std=0.2, generator=random)
    return theirs


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 6},
            "alpha_pattern": {r"layers\.\d\.self_attn\.k_proj": 3},
        },
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_dora": True},
    ],
    ids=["all-linear", "rslora", "patterns", "dora"],
)
def test_we_read_theirs(model, loaded, tokens, tmp_path: Path, options: dict[str, object]):
    theirs = their_adapter(loaded, **options)
    theirs.save_pretrained(tmp_path)
    qk.prepare_model(model, QLoRAConfig(format="none"))
    qk.load_adapter(model, tmp_path)
    assert_same_logits(model, theirs, tokens)
    assert {m.dropout_on for m in quantized_layers(model).values() if m.dropout} == {"input"}


def test_peft_s_all_linear_finds_our_layers(model):
    """A prepared model is still a model of nn.Linear to peft's target search."""
    qk.prepare_model(model, QLoRAConfig())
    config = peft.LoraConfig(target_modules="all-linear")
    found = tuners_utils._maybe_include_all_linear_layers(config, model).target_modules
    assert found == set(quantized_layers(model))
