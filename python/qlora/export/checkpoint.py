"""Model folders in, model folders out: shard by shard, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import qlora_kernels as qk
from qlora.export.codes import Stored, read_stored, tensor_names
from qlora.export.plan import Plan
from qlora.export.tensor_files import INDEX_FILE, ShardWriter, TensorSpec, index_of, shards_of
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text
from qlora_kernels.nn.merging import MergeLoss, merge_into

Progress = Callable[[int, int, str], None]
# (name, tensor of the checkpoint) -> what takes its place.
Rewrite = Callable[[str, Stored], Mapping[str, torch.Tensor]]

# Everything else that a model folder has beside its weights: small, and copied as it is.
_COPIED = ("*.json", "*.txt", "*.jinja", "*.model")


def into_16_bits(plan: Plan, dtype: torch.dtype | None) -> Rewrite:
    """Merged weights, rounded once to `dtype` (None: the checkpoint's own)."""

    def rewrite(name: str, tensor: Stored) -> Mapping[str, torch.Tensor]:
        if isinstance(tensor, torch.Tensor) and not tensor.is_floating_point():
            return {name: tensor}
        merged = plan.merged(name, tensor).to(dtype or tensor.dtype)
        if not merged.isfinite().all():
            was = str(merged.dtype).removeprefix("torch.")
            raise InputError(f"export: {name} should fit {was}, does not (--dtype bfloat16 does)")
        return {name: merged}

    return rewrite


def into_4_bits(plan: Plan, dtype: torch.dtype | None, losses: dict[str, MergeLoss]) -> Rewrite:
    """bitsandbytes' keys for every layer that training quantizes; `losses` gets what that cost.

    dtype: what bitsandbytes dequantizes to, and of the rest (None: the checkpoint's own).
    """

    dense = into_16_bits(plan, dtype)

    def rewrite(name: str, tensor: Stored) -> Mapping[str, torch.Tensor]:
        if not plan.quantizes(name):
            return dense(name, tensor)
        base, factors = plan.base(name, tensor), plan.factors(name.removesuffix(".weight"))
        if factors is not None:
            base, losses[name.removesuffix(".weight")] = merge_into(base, factors)
        assert isinstance(base, qk.QuantizedTensor)
        return replace(base, dtype=dtype or tensor.dtype).to_bitsandbytes(name)

    return rewrite


def rewrite_model(
    plan: Plan, model: Path, output: Path, rewrite: Rewrite, progress: Progress
) -> None:
    """Write `output`, an existing empty folder, with every tensor rewritten and the rest copied.

    One tensor is in memory at a time. Raises InputError where the checkpoint lacks a tensor that
    the adapter changes.
    """
    shards = shards_of(model)
    names = [tensor_names(shard) for shard in shards]
    present = {name for some in names for name in some}
    _check_complete(plan, present, model)
    files: dict[str, Mapping[str, TensorSpec]] = {}
    done = 0
    for shard, some in zip(shards, names, strict=True):
        with ShardWriter(output / shard.path.name) as writer:
            for name in some:
                tensor = read_stored(shard, name)
                for target in _targets(plan, name, present):
                    for key, value in rewrite(target, tensor).items():
                        writer.add(key, value)
                done += 1
                progress(done, len(present), name)
        files[shard.path.name] = writer.specs
    _copy_the_rest(model, output)
    if len(files) > 1:
        write_text(output / INDEX_FILE, json.dumps(index_of(files), indent=2) + "\n")


def change_config(output: Path, **changes: Any) -> None:
    """Set fields of config.json; None takes one away."""
    path = output / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in fields.items() if value is not None}
    write_text(path, json.dumps(kept, indent=2) + "\n")


def bitsandbytes_config(plan: Plan, compute_dtype: str) -> dict[str, Any]:
    """What transformers wants in config.json to load the checkpoint with bitsandbytes."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": plan.storage.format,
        "bnb_4bit_use_double_quant": plan.storage.double_quant,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": sorted(plan.skeleton.linear - plan.skeleton.quantized),
    }


def _targets(plan: Plan, name: str, present: set[str]) -> list[str]:
    """The parameters that a tensor of the checkpoint becomes: two where a tied one parts."""
    head = f"{plan.skeleton.head}.weight"
    parts = plan.unties and name == f"{plan.skeleton.embedding}.weight" and head not in present
    return [name, head] if parts else [name]


def _check_complete(plan: Plan, present: set[str], model: Path) -> None:
    adapter = plan.adapter
    wanted = {f"{name}.weight" for name in {**adapter.layers, **adapter.embeddings}}
    wanted |= {f"{name}.weight" for name in {*adapter.token_rows, *plan.skeleton.quantized}}
    wanted |= {f"{name}.bias" for name in adapter.biases} | set(adapter.saved_modules)
    if plan.skeleton.tied:
        wanted.discard(f"{plan.skeleton.head}.weight")
        wanted.add(f"{plan.skeleton.embedding}.weight")
    if missing := sorted(wanted - present):
        raise InputError(
            f"model: {model} should hold {missing[0]}, does not (its tensors have other names: "
            "load and save it with transformers first)"
        )


def _copy_the_rest(model: Path, output: Path) -> None:
    for pattern in _COPIED:
        for file in model.glob(pattern):
            if file.is_file() and file.name != INDEX_FILE:
                shutil.copyfile(file, output / file.name)
