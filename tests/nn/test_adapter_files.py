"""Adapters on disk: our own round trip, and what a folder must hold."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, quantized_layers

CONFIG = QLoRAConfig(
    rank=4,
    alpha=8,
    dropout=0.1,
    rank_pattern={r"layers\.1\..*": 2},
    alpha_pattern={"down_proj": 3.5},
)
WEIGHTS, DESCRIPTION = "adapter_model.safetensors", "adapter_config.json"


def trained(model: nn.Module, config: QLoRAConfig = CONFIG) -> nn.Module:
    """Prepared, and with adapters that have learnt something."""
    qk.prepare_model(model, config)
    random = torch.Generator().manual_seed(9)
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.2, generator=random)
    return model


@torch.no_grad()
def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens).logits


def settings(model: nn.Module) -> dict[str, tuple[object, ...]]:
    return {
        name: (layer.scaling, layer.dropout, layer.dropout_on)
        for name, layer in quantized_layers(model).items()
    }


@pytest.fixture
def other(loaded: nn.Module) -> nn.Module:
    """A second copy of the tiny model."""
    return copy.deepcopy(loaded)


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_saved_is_loaded(model, other, tokens, tmp_path, rslora: bool, dropout_on: str):
    config = replace(CONFIG, rslora=rslora, dropout_on=dropout_on)
    qk.save_adapter(trained(model, config), tmp_path / "adapter")
    assert {f.name for f in (tmp_path / "adapter").iterdir()} == {WEIGHTS, DESCRIPTION}
    qk.prepare_model(other, QLoRAConfig(rank=16, alpha=1))
    qk.load_adapter(other, tmp_path / "adapter")
    assert torch.equal(logits(other, tokens), logits(model, tokens))
    assert settings(other) == settings(model)
    ours, theirs = adapter_parameters(other), adapter_parameters(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) and ours[n].requires_grad for n in ours)


def test_layers_that_the_folder_does_not_name_lose_their_adapter(model, other, tokens, tmp_path):
    qk.save_adapter(trained(model, replace(CONFIG, targets=["q_proj"])), tmp_path)
    qk.load_adapter(trained(other), tmp_path)
    assert len(adapter_parameters(other)) == 2 * 4
    assert torch.equal(logits(other, tokens), logits(model, tokens))


def test_parameters_of_the_same_shape_stay_the_same_objects(model, tmp_path):
    qk.save_adapter(trained(model), tmp_path)
    held = adapter_parameters(model)
    for parameter in held.values():
        parameter.data.zero_()
    qk.load_adapter(model, tmp_path)
    now = adapter_parameters(model)
    assert all(now[name] is held[name] and now[name].any() for name in held)


def test_saving_replaces_what_was_there(model, tmp_path):
    folder = tmp_path / "adapter"
    qk.save_adapter(trained(model), folder)
    for parameter in adapter_parameters(model).values():
        parameter.data.fill_(1.0)
    qk.save_adapter(model, folder)
    assert all((t == 1.0).all() for t in load_file(folder / WEIGHTS).values())
    assert [f.name for f in tmp_path.iterdir()] == ["adapter"], "nothing half-written beside it"


def test_a_model_without_adapters_saves_nothing(model, tmp_path):
    with pytest.raises(qk.InputError, match="save_adapter: model should have adapters, has none"):
        qk.save_adapter(model, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_an_unprepared_model_loads_nothing(model, other, tmp_path):
    qk.save_adapter(trained(model), tmp_path)
    with pytest.raises(qk.InputError, match="load_adapter: model should be prepared"):
        qk.load_adapter(other, tmp_path)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
FIRST = (KEY.format("A"), KEY.format("B"))


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit_description(folder: Path, **changes: object) -> None:
    fields = json.loads((folder / DESCRIPTION).read_text()) | changes
    kept = {k: v for k, v in fields.items() if v is not None}
    (folder / DESCRIPTION).write_text(json.dumps(kept))


SPOILED = {
    "q_proj.lora_A.weight should be finite": lambda f: edit_weights(
        f, lambda t: t[KEY.format("A")].fill_(float("nan"))
    ),
    "self_attn.q_proj should have A [r, 128] and B [128, r], has {'A': [4, 127]": (
        lambda f: edit_weights(f, lambda t: t.update({KEY.format("A"): torch.zeros(4, 127)}))
    ),
    "has {'A': [3, 128], 'B': [128, 4]}": lambda f: edit_weights(
        f, lambda t: t.update({KEY.format("A"): torch.zeros(3, 128)})
    ),
    "has {'A': [4, 128]}": lambda f: edit_weights(f, lambda t: t.pop(KEY.format("B"))),
    "q_prj should be a layer of the model": lambda f: edit_weights(
        f, lambda t: t.update({k.replace("q_proj", "q_prj"): t.pop(k) for k in FIRST})
    ),
    "x should have A and B, has a magnitude alone": lambda f: edit_weights(
        f, lambda t: t.update({"base_model.model.x.lora_magnitude_vector": torch.zeros(2)})
    ),
    "adapter_model.safetensors should be a readable safetensors file": lambda f: (
        f / WEIGHTS
    ).write_bytes(b"\0" * 9),
    "adapter_config.json should be readable JSON": lambda f: (f / DESCRIPTION).write_text("{"),
    "should describe a LORA adapter": lambda f: edit_description(f, peft_type="IA3"),
    "has no magnitude, and use_dora is True": lambda f: edit_description(f, use_dora=True),
    "should describe r and lora_alpha": lambda f: edit_description(f, r=None),
    "r should be a whole number from 1 to 65536, was 0": lambda f: edit_description(f, r=0),
    "dropout should be in [0, 1), was 2": lambda f: edit_description(f, lora_dropout=2),
}


@pytest.mark.parametrize("text", SPOILED)
def test_a_spoiled_folder_is_refused_and_nothing_changes(model, tokens, tmp_path, text: str):
    qk.save_adapter(trained(model), tmp_path)
    SPOILED[text](tmp_path)
    before = logits(model, tokens)
    with pytest.raises(qk.InputError) as refusal:
        qk.load_adapter(model, tmp_path)
    assert text in str(refusal.value) and "\n" not in str(refusal.value)
    assert torch.equal(logits(model, tokens), before)


def test_an_absent_folder_is_refused(model, tmp_path):
    qk.prepare_model(model, CONFIG)
    with pytest.raises(qk.InputError, match=r"adapter_config\.json should be readable JSON"):
        qk.load_adapter(model, tmp_path / "absent")
