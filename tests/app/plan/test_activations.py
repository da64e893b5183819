"""What forward keeps, counted tensor by tensor in models of transformers, is what is predicted."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import qlora_kernels as qk
from qlora.plan.config_file import architecture_of
from qlora.plan.memory import Forecast
from qlora.plan.settings import PlanSettings

NEAR = 0.05  # of what is kept; the project's law for the planner
ROWS, LENGTH, RANK = 2, 128, 4
SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 640,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
GPT2_SIZES = {
    **{"vocab_size": 512, "n_embd": 256, "n_layer": 6, "n_head": 8, "bos_token_id": 1},
    **{"eos_token_id": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
CASES = [(family, method) for family in FAMILIES for method in ("full", "qlora", "dora")]


def kept_bytes(model: torch.nn.Module, packing: bool) -> int:
    """Of every storage that forward keeps, once, but for what is the model's own."""
    tensors = [*model.parameters(), *model.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 500
    positions = (
        ids.new_tensor([*range(50), *range(LENGTH - 50)]) if packing else torch.arange(LENGTH)
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        positions = positions.expand(ROWS, -1)
        model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
    return sum(size for size, _ in kept.values())


def measured_and_predicted(family: str, method: str, dtype: str, packing: bool) -> tuple[int, int]:
    sizes = GPT2_SIZES if family == "gpt2" else SIZES
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).train()
    if method != "full":
        qk.prepare_model(model, qk.QLoRAConfig(rank=RANK, dora=method == "dora"))
    mixed = dtype == "bfloat16" and method != "full"
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        measured = kept_bytes(model, packing)
    settings = PlanSettings(
        rank=RANK,
        sequence_length=LENGTH,
        batch_size=ROWS,
        packing=packing,
        dtype=dtype,
        trained_dtype=dtype if method == "full" else "float32",
    )
    forecast = Forecast(architecture_of(config.to_dict(), Path("config.json")), settings, method)
    return measured, forecast.components["activations"]


@pytest.mark.parametrize("packing", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "method"), [*CASES, ("gpt2", "full")])
def test_the_prediction_is_what_is_kept(family: str, method: str, dtype: str, packing: bool):
    measured, predicted = measured_and_predicted(family, method, dtype, packing)
    assert abs(predicted / measured - 1) <= NEAR


def test_fewer_targets_keep_less():
    model = architecture_of(AutoConfig.for_model("llama", **SIZES).to_dict(), Path("config.json"))
    every = Forecast(model, PlanSettings(), "qlora").components["activations"]
    some = Forecast(model, PlanSettings(targets=("q_proj", "v_proj")), "qlora")
    forward = SIZES["hidden_size"] + SIZES["intermediate_size"]  # what gate and up, and down, read
    tokens = some.settings.tokens
    kept = some.components["activations"]
    assert every - kept == 2 * forward * SIZES["num_hidden_layers"] * tokens
