"""A folder that `qlora quantize` wrote, as a model: codes go into their layers as they are."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

import qlora_kernels as qk
from qlora.export.codes import parts_of, quantized_names, read_codes
from qlora.export.tensor_files import shards_of
from qlora_kernels.errors import InputError
from qlora_kernels.formats.state_dict import QUANT_METHOD
from qlora_kernels.nn.qlora_linear import is_conv1d

METHOD = QUANT_METHOD


def stored_method(folder: Path) -> str | None:
    """How config.json says that the weights are quantized; None: not at all, or it cannot be read.

    Whoever loads the model tells what is wrong with its config.json.
    """
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        method = fields["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(method)


def load_stored(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model over its codes, on the CPU: linear layers are QLoRALinear without adapters.

    dtype is that of every other floating-point parameter, and what the codes are dequantized to.
    Dense weights of quantized layers never exist. Raises InputError for tensors that are missing,
    broken, of a wrong shape or of no use.
    """
    model = _without_weights(folder, dtype)
    shards = {name: shard for shard in shards_of(folder) for name in shard.specs}
    parts = {layer: parts_of(layer, shards) for layer in quantized_names(shards)}
    of_layers = {name for names in parts.values() for name in names}
    for name in shards.keys() - of_layers:
        _place_tensor(model, name, shards[name].read(name), folder)
    for layer in parts:
        _place_codes(model, layer, read_codes(layer, shards), folder, dtype)
    model.tie_weights()
    if missing := [n for n, p in model.named_parameters() if p.is_meta]:
        raise InputError(
            f"load_model: {folder} should hold every tensor of the model, lacks {len(missing)}, "
            f"the first is {min(missing)}"
        )
    return model


def _without_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Parameters on no device; buffers, which the model computes itself, on the CPU."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        del config.quantization_config  # ours: transformers knows no such method
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=False
            )
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(
                folder, local_files_only=True
            )
    except Exception as error:  # whatever a library raises about a file, the file is at fault
        reason = " ".join(str(error).split()).split(". ")[0]
        raise InputError(f"load_model: {folder} should hold a causal LM: {reason}") from error
    return model


def _place_tensor(model: nn.Module, name: str, tensor: torch.Tensor, folder: Path) -> None:
    """A parameter in the dtype that the model has for it, or a buffer."""
    module, leaf = _owner(model, name, folder)
    wanted = module._parameters.get(leaf, module._buffers.get(leaf))
    if wanted is None:
        raise InputError(f"load_model: {folder}: {name} should be a tensor of the model, is not")
    _check_shape(name, tensor.shape, wanted.shape, folder)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor.to(wanted.dtype), requires_grad=False)
    else:
        wanted.copy_(tensor)


def _place_codes(
    model: nn.Module, layer: str, q: qk.QuantizedTensor, folder: Path, dtype: torch.dtype
) -> None:
    parent, leaf = _owner(model, layer, folder)
    linear = getattr(parent, leaf, None)
    if not (type(linear) is nn.Linear or (isinstance(linear, nn.Module) and is_conv1d(linear))):
        raise InputError(f"load_model: {folder}: {layer} should be a linear layer, is not")
    weight: torch.Tensor = linear.get_parameter("weight")
    wanted = weight.T.shape if is_conv1d(linear) else weight.shape
    _check_shape(f"{layer}.weight", q.shape, wanted, folder)
    bias = None if linear.bias is None else linear.get_parameter("bias")
    setattr(parent, leaf, qk.nn.QLoRALinear(replace(q, dtype=dtype), bias))


def _owner(model: nn.Module, name: str, folder: Path) -> tuple[nn.Module, str]:
    """The module that holds `name`, and by which attribute."""
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise InputError(
            f"load_model: {folder}: {name} should be a part of the model, is not"
        ) from None


def _check_shape(name: str, stored: Sequence[int], wanted: Sequence[int], folder: Path) -> None:
    if list(stored) != list(wanted):
        raise InputError(
            f"load_model: {folder}: {name} should have the shape {list(wanted)} of config.json, "
            f"was {list(stored)}"
        )
