"""Components against the library's own tensors, the field's counts, and the quoted figures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import qlora_kernels as qk
from qlora.plan.config_file import architecture_of
from qlora.plan.history import NEAR, table
from qlora.plan.memory import LOGIT_CHUNK_BYTES, Forecast
from qlora.plan.models import MODELS
from qlora.plan.settings import METHODS, PlanSettings
from qlora.plan.solve import largest, limits
from qlora_kernels.nn import quantized_layers
from qlora_kernels.ops.linear_cross_entropy import triton_kernel

# Trainable parameters as the models' publishers count them.
PUBLISHED = {
    "gpt2": 124_439_808,
    "smollm2": 134_515_008,
    "llama-7b": 6_738_415_616,
    "llama-65b": 65_285_660_672,
    "llama-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "qwen-7b": 7_615_616_512,
    "gemma-7b": 8_537_680_896,
}
ODD = {
    "vocab_size": 301,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 200,
    "head_dim": 24,
}


def forecast(method="qlora", model="llama-8b", **changes) -> Forecast:
    return Forecast(MODELS[model], PlanSettings(**changes), method)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_those_of_the_published_models(name: str):
    assert MODELS[name].weights == PUBLISHED[name]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gemma3_text"])
@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("dora", [True, False])
def test_the_base_and_the_adapters_are_the_bytes_of_a_model(family, form, double_quant, dora):
    config = AutoConfig.for_model(family, **ODD)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    storage = {"format": form, "double_quant": double_quant}
    qk.prepare_model(model, qk.QLoRAConfig(rank=5, dora=dora, **storage))
    shape = architecture_of(config.to_dict(), Path("config.json"))
    plan = Forecast(shape, PlanSettings(rank=5, **storage), "dora" if dora else "qlora")
    bases = [layer.base for layer in quantized_layers(model).values()]
    parts = plan.components
    assert parts["codes"] + parts["scales"] == sum(base.nbytes for base in bases)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert plan.trained == sum(p.numel() for p in trained)
    assert parts["gradients"] == sum(p.nbytes for p in trained)
    assert parts["optimizer"] == qk.optim.state_bytes(trained)
    plan = replace(plan, settings=replace(plan.settings, optimizer="adamw-8bit"))
    assert plan.components["optimizer"] == qk.optim.state_bytes(trained, 8)
    dense = [
        p for n, p in model.named_parameters() if not p.requires_grad and p.dtype != torch.uint8
    ]
    assert parts["embeddings"] + parts["small"] == sum(p.nbytes for p in dense)


def test_chunks_of_logits_are_those_of_the_loss():
    assert triton_kernel._CHUNK_BYTES == LOGIT_CHUNK_BYTES


def test_trained_parameters_as_the_field_counts_them():
    plan = forecast(model="llama-7b", rank=8, targets=("q_proj",))
    assert plan.trained == 32 * 65_536
    assert plan.adapted[0].weights / (plan.trained / 32) == 256


def test_the_table_is_near_the_quoted_figures_or_says_why():
    rows = {row.method: row for row in table()}
    assert [row.quoted_gb for row in rows.values()] == [780, 160, 48, 52, 160]
    assert {name for name, row in rows.items() if abs(row.off) > NEAR} == {"dora"}
    assert "Differs:" in rows["dora"].assumes
    assert [row.year for row in rows.values()] == sorted(row.year for row in rows.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["sequence_length", "batch_size", "rank"])
def test_memory_grows_with_each_setting(method: str, name: str):
    plans = [forecast(method, **{name: value}).total for value in (1, 2, 3, 64, 65, 1000)]
    assert plans == sorted(plans)


@pytest.mark.parametrize("method", METHODS)
def test_the_limits_are_tight(method: str):
    plan = forecast(method, memory="40GB", gradient_checkpointing=True)
    found = limits(plan)
    for name, value in (
        ("sequence_length", found.longest_sequence),
        ("batch_size", found.largest_batch),
        ("rank", found.highest_rank),
    ):
        if not value:
            continue
        assert replace(plan, settings=replace(plan.settings, **{name: value})).fits
        more = replace(plan, settings=replace(plan.settings, **{name: value + 1}))
        assert not more.fits or value in (131072, 1024)  # as long, or as high, as the model goes


@pytest.mark.parametrize("edge", range(6))
def test_the_search_finds_every_edge(edge: int):
    assert largest(1, 5, lambda value: value <= edge) == edge


def test_paging_gives_way():
    tight = forecast("qlora", memory="8GB", rank=64, batch_size=1, gradient_checkpointing=True)
    assert not tight.fits
    paged = replace(tight, settings=replace(tight.settings, optimizer="paged-adamw"))
    assert paged.fits and paged.total == 8 * 10**9
    fixed = replace(paged.settings, optimizer_memory="10%")
    states = tight.components["optimizer"]
    assert replace(paged, settings=fixed).components["optimizer"] == states // 10
