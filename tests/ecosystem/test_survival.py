"""A prepared model, of LoRA or DoRA, through what programs do with models."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, adapter_parameters

CONFIG = QLoRAConfig(rank=4, dropout=0.1)
METHODS = {"lora": CONFIG, "dora": replace(CONFIG, dora=True)}


@pytest.fixture(params=METHODS)
def prepared(request: pytest.FixtureRequest, model: nn.Module) -> nn.Module:
    """In train mode, after a backward pass, its adapters not at their start."""
    torch.manual_seed(0)
    qk.prepare_model(model.train(), METHODS[request.param])
    for name, parameter in adapter_parameters(model).items():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.1)
    return model


def step(model: nn.Module, tokens: torch.Tensor, seed: int = 1) -> list[torch.Tensor]:
    """The loss and all gradients; the seed is that of dropout."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in adapter_parameters(model).values())]


def alike(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def torch_saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": torch_saved,
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_is_the_same_and_its_own(prepared, tokens, copied: str):
    before = step(prepared, tokens)
    twin = COPIES[copied](prepared)
    assert alike(step(twin, tokens), before)
    for parameter in adapter_parameters(twin).values():
        parameter.data.zero_()
    assert alike(step(prepared, tokens), before), "the copy shares nothing with it"
    twin.load_state_dict(prepared.state_dict())
    assert alike(step(twin, tokens), before)


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_takes_adapters_by_peft_names_too(prepared, tokens, tmp_path, copied: str):
    """The hook that does so belongs to the copy, not to the original."""
    before = step(prepared, tokens)
    qk.save_adapter(prepared, tmp_path)
    twin = COPIES[copied](prepared)
    for parameter in adapter_parameters(twin).values():
        parameter.data.fill_(0.1)
    twin.load_state_dict(load_file(tmp_path / "adapter_model.safetensors"), strict=False)
    assert alike(step(twin, tokens), before) and alike(step(prepared, tokens), before)


def test_the_meta_device_and_back(prepared, tokens):
    state = {name: tensor.clone() for name, tensor in prepared.state_dict().items()}
    before = step(prepared, tokens)
    rotary = {n: b.clone() for n, b in prepared.named_buffers() if n not in state}
    empty = copy.deepcopy(prepared).to("meta")
    assert empty(input_ids=tokens.to("meta")).logits.shape == (*tokens.shape, 1024)
    empty.to_empty(device="cpu").load_state_dict(state)
    for name, buffer in rotary.items():  # transformers keeps it out of the state
        empty.get_buffer(name).copy_(buffer)
    empty.tie_weights()
    assert alike(step(empty, tokens), before)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_prepared_on_meta(loaded, method: str):
    """Its state comes later, from a model that was prepared on the spot."""
    filled = qk.prepare_model(copy.deepcopy(loaded), METHODS[method])
    empty = copy.deepcopy(loaded).to("meta")
    empty.tie_weights()  # which torch forgets on the way
    qk.prepare_model(empty, METHODS[method])
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert [(n, p.shape, p.dtype) for n, p in empty.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in filled.named_parameters()
    ]
    result = empty.load_state_dict(filled.state_dict(), assign=True)
    assert not result.missing_keys and not result.unexpected_keys


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_no_bit(prepared, tokens, reentrant: bool):
    before = step(prepared, tokens)
    prepared.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert alike(step(prepared, tokens), before)


def test_autocast_computes_in_bf16_and_trains_in_float32(prepared, tokens):
    with torch.autocast("cpu", torch.bfloat16):
        assert prepared(input_ids=tokens).logits.dtype == torch.bfloat16
        gradients = step(prepared, tokens)[1:]
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.any() for g in gradients)
