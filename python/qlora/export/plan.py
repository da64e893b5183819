"""What becomes of every tensor of a checkpoint when an adapter is merged into it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import qlora_kernels as qk
from qlora.export.codes import Stored
from qlora_kernels.errors import InputError
from qlora_kernels.formats import Adapter, Base
from qlora_kernels.formats.adapter_folder import (
    AdapterFolder,
    AdapterFolderConfig,
    LayerFactors,
    read_adapter_folder,
)
from qlora_kernels.nn import quantized_layers
from qlora_kernels.nn.merging import merged_weight
from qlora_kernels.nn.qlora_linear import is_conv1d
from qlora_kernels.nn.surgery import check_stored
from qlora_kernels.nn.targets import check_patterns

_NOTHING = AdapterFolder(layers={}, config=AdapterFolderConfig())


@dataclass(frozen=True)
class Skeleton:
    """A model without its weights: what the parts of a checkpoint mean.

    shapes: parameter -> shape; linear: names of linear layers; quantized: those that training
    quantizes; transposed: those stored [in, out]; head, embedding: names, and whether they share
    one weight that the checkpoint holds once.
    """

    shapes: Mapping[str, tuple[int, ...]]
    linear: frozenset[str]
    quantized: frozenset[str]
    transposed: frozenset[str]
    head: str | None
    embedding: str | None
    tied: bool


def skeleton_of(folder: str | Path) -> Skeleton:
    """Build the model of a folder's config.json on no device; runs no code of the folder."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # what is stored as codes has its own way in
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a library raises about a file, the file is at fault
        reason = " ".join(str(error).split()).split(". ")[0]
        raise InputError(f"model: {folder} should hold a causal language model: {reason}") from None
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    modules = dict(model.named_modules())
    linear = {n for n, m in modules.items() if type(m) is nn.Linear or is_conv1d(m)}
    transposed = {n for n in linear if is_conv1d(modules[n])}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(m): n for n, m in modules.items()}
    tied = head is not None and head.weight is embedding.weight
    qk.prepare_model(model, qk.QLoRAConfig(targets=()))
    return Skeleton(
        shapes=shapes,
        linear=frozenset(linear),
        quantized=frozenset(quantized_layers(model)),
        transposed=frozenset(transposed),
        head=names.get(id(head)),
        embedding=names.get(id(embedding)),
        tied=tied or bool(getattr(config.get_text_config(), "tie_word_embeddings", False)),
    )


@dataclass(frozen=True)
class Plan:
    """How tensors change: `W' = W + s B A` and what else the adapter folder holds.

    storage: how the base was stored that the adapter was trained on.
    """

    skeleton: Skeleton
    storage: qk.QLoRAConfig
    adapter: AdapterFolder = field(default=_NOTHING)

    @property
    def unties(self) -> bool:
        """Whether head and embedding, one tensor until now, part.

        As in peft: rows of tokens follow a tied weight, everything else changes one of the two.
        """
        adapter, skeleton = self.adapter, self.skeleton
        changed = {name.rpartition(".")[0] for name in adapter.saved_modules}
        changed |= {*adapter.layers, *adapter.embeddings}
        return skeleton.tied and bool({skeleton.head, skeleton.embedding} & changed)

    def factors(self, module: str) -> Adapter | None:
        """The update of a linear layer."""
        found = self.adapter.layers.get(module)
        return None if found is None else _adapter(found)

    def base(self, name: str, weight: Stored, importance: torch.Tensor | None = None) -> Base:
        """The base [out, in] that the adapter saw when it was trained.

        importance: what an error in each of its columns counts, where scales are searched. Raises
        InputError for codes that are stored in another way than `storage` says.
        """
        module = name.removesuffix(".weight")
        if isinstance(weight, qk.QuantizedTensor):
            check_stored("export", module, weight, self.storage)
            return weight
        if module in self.skeleton.transposed:
            weight = weight.T.contiguous()
        spec = self.storage.spec_of(module)
        if spec is None or not self.quantizes(name):
            return weight
        return qk.quantize(weight, **asdict(spec), importance=importance)

    def quantizes(self, name: str) -> bool:
        """Whether training quantized this parameter."""
        module, _, parameter = name.rpartition(".")
        replaced = name in self.adapter.saved_modules
        return parameter == "weight" and module in self.skeleton.quantized and not replaced

    def merged(self, name: str, stored: Stored) -> torch.Tensor:
        """The parameter's value with the adapter in it: float32 where it was computed."""
        module, _, parameter = name.rpartition(".")
        stored = self.adapter.saved_modules.get(name, stored)
        if module in self.skeleton.linear and parameter == "weight":
            tensor = self._merged_linear(name, module, stored)
        else:
            assert isinstance(stored, torch.Tensor), name  # only linear layers have codes
            tensor = stored
        if parameter == "bias":
            return self.adapter.biases.get(module, tensor)
        if parameter != "weight":
            return tensor
        if (embedded := self.adapter.embeddings.get(module)) is not None:
            update = embedded.b.float() @ embedded.a.float()
            tensor = tensor.float() + embedded.scaling * update.T
        rows = self.adapter.token_rows.get(module) or self._rows_of_tied(module)
        if rows is not None:
            tensor = tensor.float().clone()
            tensor[list(rows.indices)] = rows.rows.float()
        return tensor

    def _merged_linear(self, name: str, module: str, stored: Stored) -> torch.Tensor:
        base, factors = self.base(name, stored), self.factors(module)
        if factors is not None:
            weight = merged_weight(base, factors)
        elif isinstance(base, torch.Tensor):
            weight = base
        else:
            weight = qk.dequantize(base, torch.float32)
        return weight.T.contiguous() if module in self.skeleton.transposed else weight

    def _rows_of_tied(self, module: str) -> Any:
        """The embedding's rows, where the head is a copy of it that must follow."""
        skeleton = self.skeleton
        follows = skeleton.tied and module == skeleton.head and skeleton.embedding
        return self.adapter.token_rows.get(skeleton.embedding) if follows else None  # type: ignore[arg-type]


def plan_of(model: str | Path, adapter: str | Path | None, storage: qk.QLoRAConfig) -> Plan:
    """Read the adapter and check that every part of it has its place in the model.

    Raises InputError for a folder that is no model or no adapter, and for parts that do not fit.
    """
    skeleton = skeleton_of(model)
    check_patterns(sorted(skeleton.quantized), sorted(skeleton.linear), storage)
    if adapter is None:
        return Plan(skeleton, storage)
    folder = read_adapter_folder(adapter)
    for name, factors in folder.layers.items():
        shape = (factors.b.shape[0], factors.a.shape[1])
        turned = shape[::-1] if name in skeleton.transposed else shape
        known = name in skeleton.linear
        _check(f"{name}.weight", turned, skeleton if known else None, adapter)
    for name, factors in folder.embeddings.items():
        if factors.magnitude is not None:
            raise InputError(
                f"export: {adapter}: {name} should be LoRA, DoRA of an embedding it is"
            )
        _check(f"{name}.weight", (factors.a.shape[1], factors.b.shape[0]), skeleton, adapter)
    for name, bias in folder.biases.items():
        _check(f"{name}.bias", tuple(bias.shape), skeleton, adapter)
    for name, tensor in folder.saved_modules.items():
        _check(name, tuple(tensor.shape), skeleton, adapter)
    for name, rows in folder.token_rows.items():
        vocabulary = skeleton.shapes.get(f"{name}.weight", (0,))[0]
        if max(rows.indices, default=0) >= vocabulary:
            raise InputError(
                f"export: {adapter}: tokens of {name} should be below {vocabulary}, has "
                f"{max(rows.indices)}"
            )
        _check(f"{name}.weight", (vocabulary, rows.rows.shape[1]), skeleton, adapter)
    return Plan(skeleton, storage, folder)


def _check(name: str, shape: tuple[int, ...], skeleton: Skeleton | None, adapter: Any) -> None:
    wanted = None if skeleton is None else skeleton.shapes.get(name)
    if wanted is None:
        raise InputError(f"export: {adapter}: {name} should be a weight of the model, is not")
    if wanted != shape:
        raise InputError(
            f"export: {adapter}: {name} should have an update of {list(wanted)}, has {list(shape)}"
        )


def _adapter(factors: LayerFactors) -> Adapter:
    return Adapter(factors.a, factors.b, factors.scaling, magnitude=factors.magnitude)
