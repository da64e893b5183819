"""`load_state_dict` of a prepared model takes the tensors of an adapter file by peft's names."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, adapter_parameters

CONFIG = QLoRAConfig(rank=4, dora=True, targets=["q_proj", "up_proj"], bias="all")


def prepared(model: nn.Module, config: QLoRAConfig = CONFIG, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return qk.prepare_model(copy.deepcopy(model), config)


def tensors(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    qk.save_adapter(model, folder)
    return load_file(folder / "adapter_model.safetensors")


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def test_they_take_the_place_of_what_was_there(model, tokens, tmp_path):
    source, target = prepared(model), prepared(model, seed=1)
    for parameter in adapter_parameters(source).values():
        parameter.data.add_(0.1)
    assert not torch.equal(logits(source, tokens), logits(target, tokens))
    held = adapter_parameters(target)
    given = tensors(source, tmp_path)
    kept = dict(given)
    target.load_state_dict(given, strict=False)
    assert torch.equal(logits(source, tokens), logits(target, tokens))
    assert all(now is held[name] for name, now in adapter_parameters(target).items())
    assert given.keys() == kept.keys(), "the caller's dict is the caller's"


def test_what_the_model_does_not_train_is_refused(model, tokens, tmp_path):
    target = prepared(model, QLoRAConfig(rank=4, dora=True, targets=["q_proj"]))
    before = logits(target, tokens)
    with pytest.raises(qk.InputError, match=r"train the same, .*up_proj.* in the file alone"):
        target.load_state_dict(tensors(prepared(model), tmp_path), strict=False)
    lacking = tensors(target, tmp_path)
    lacking.popitem()
    with pytest.raises(qk.InputError, match="is in the model alone"):
        target.load_state_dict(lacking, strict=False)
    assert torch.equal(logits(target, tokens), before)


def test_other_sizes_are_refused_before_anything_changes(model, tokens, tmp_path):
    target = prepared(model)
    before, given = logits(target, tokens), tensors(target, tmp_path)
    name = sorted(given)[-1]
    given = {key: tensor + 1 for key, tensor in given.items()} | {name: torch.zeros(3)}
    with pytest.raises(qk.InputError, match=r"should be \[.*\], was \[3\]"):
        target.load_state_dict(given, strict=False)
    assert torch.equal(logits(target, tokens), before)


def test_an_ordinary_state_dict_is_none_of_its_business(model, tokens):
    source, target = prepared(model), prepared(model, seed=1)
    assert target.load_state_dict(source.state_dict()) == nn.modules.module._IncompatibleKeys(
        [], []
    )
    assert torch.equal(logits(source, tokens), logits(target, tokens))
