"""A prepared model's `load_state_dict` takes the tensors of an adapter file by peft's names.

Trainers load what a checkpoint holds with `load_state_dict(strict=False)`, which would pass over
names that it does not know, and go on from fresh adapters without a word.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.formats.adapter_folder import PREFIX, peft_tensors


def load_peft_names(
    model: nn.Module, state_dict: MutableMapping[str, torch.Tensor], prefix: str, *_: Any
) -> None:
    """Copy tensors that stand under peft's names into the adapters, and take them out of the dict.

    Raises InputError, before anything is changed, unless they are all that the model trains.
    """
    given = {key: tensor for key, tensor in state_dict.items() if key.startswith(PREFIX)}
    if prefix or not given:
        return
    from qlora_kernels.nn.adapter_files import adapters_of  # it stands above the surgery

    trained = peft_tensors(adapters_of(model))
    if differ := sorted(trained.keys() ^ given.keys()):
        where = "the model alone" if differ[0] in trained else "the file alone"
        raise InputError(
            f"load_state_dict: model and file should train the same, {differ[0]} is in {where}"
        )
    for key, tensor in given.items():
        if tensor.shape != trained[key].shape:
            sizes = list(trained[key].shape), list(tensor.shape)
            raise InputError(f"load_state_dict: {key} should be {sizes[0]}, was {sizes[1]}")
    for key, tensor in given.items():
        trained[key].copy_(tensor)
        del state_dict[key]
