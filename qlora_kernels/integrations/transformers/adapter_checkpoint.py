"""Checkpoints of adapters alone, out of a Trainer that saves whole models.

A Trainer saves with `model.save_pretrained`, and loads with `model.load_state_dict` what an index
of shards names, unless the model is peft's. So `save_pretrained` of this one model writes a peft
folder and beside it an index, whose only shard is the adapter.
"""

import json
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from qlora_kernels.checks import InputError
from qlora_kernels.files import write_text
from qlora_kernels.formats.adapter_folder import WEIGHTS_FILE
from qlora_kernels.nn import adapter_parameters, quantized_layers, save_adapter


def keep_adapters_only(model: nn.Module) -> None:
    """From now on `model.save_pretrained(folder)` writes the adapters and never the base.

    Raises InputError for a model that is not of transformers, or has no adapters.
    """
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            "QLoRACallback: model should be a PreTrainedModel, whose checkpoints are its own, "
            f"was {type(model).__name__}"
        )
    kept = adapter_parameters(model).keys()
    if not quantized_layers(model) or not kept:
        raise InputError("QLoRACallback: model should have adapters (qk.prepare_model), has none")
    vars(model)["save_pretrained"] = partial(_save, model)
    # What a checkpoint lacks on purpose; the Trainer warns of all other names that it misses.
    vars(model)["_keys_to_ignore_on_save"] = model.state_dict().keys() - kept


def _save(
    model: PreTrainedModel,
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    state_dict: dict[str, Any] | None = None,
) -> None:
    """Into a folder that may hold other things: a run's own folder holds its checkpoints."""
    if state_dict is not None:
        raise InputError(
            "save_pretrained: adapters should be whole in each process, are sharded "
            "(FSDP or DeepSpeed ZeRO-3)"
        )
    if not is_main_process:
        return
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".adapter.", dir=folder) as temporary:
        save_adapter(model, Path(temporary) / "adapter")
        for file in (Path(temporary) / "adapter").iterdir():
            os.replace(file, folder / file.name)
    trained = adapter_parameters(model)
    index = {
        "metadata": {"total_size": sum(parameter.nbytes for parameter in trained.values())},
        "weight_map": dict.fromkeys(trained, WEIGHTS_FILE),
    }
    write_text(folder / SAFE_WEIGHTS_INDEX_NAME, json.dumps(index, indent=2) + "\n")
