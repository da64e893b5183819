"""Parameters that FSDP2 shards: each process updates its own shard, with blocks of its own.

In a state dict moments and masters are DTensors as their parameter is. The scales of a shard's
blocks are one row of a DTensor [shards, most blocks of a shard]: shards need not hold whole blocks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.checks import InputError
from qlora_kernels.formats.blockwise8 import num_blocks

_WHOLE = (Tensor, torch.nn.Parameter)


def is_sharded(tensor: Any) -> bool:
    """Whether it is a DTensor."""
    # A missing attribute costs ten times as much as a type, and each step asks of each tensor.
    return type(tensor) not in _WHOLE and hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """What this process holds of a tensor: all, or its shard."""
    held: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return held


def sum_over_shards(parameters: Iterable[Tensor]) -> Callable[[Tensor], Tensor] | None:
    """What makes a sum over this process's shards one over all; None where nothing is sharded.

    Raises InputError for parameters that are not all sharded the same way: the share of one that is
    not would be added once per process.
    """
    layouts = {_layout(parameter) for parameter in parameters}
    if layouts == {None}:
        return None
    if len(layouts) != 1:
        raise InputError(
            "AdamW: parameters should all be sharded over one mesh in the same dimensions or none,"
            " were a mixture (which clipping and finding bad gradients would count wrongly)"
        )
    mesh, dimensions = layouts.pop()  # type: ignore[misc]

    def total(part: Tensor) -> Tensor:
        whole = part.clone()
        for dimension in dimensions:
            torch.distributed.all_reduce(whole, group=mesh.get_group(dimension))
        return whole

    return total


def as_sharded(parameter: Any, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states of a shard as DTensors; those of a whole parameter as they are."""
    if not is_sharded(parameter):
        return dict(states)
    made: dict[str, Tensor] = {}
    for name, tensor in states.items():
        made[name] = tensor
        if name.endswith("_absmax"):
            row = tensor.new_zeros(1, _most_blocks(parameter))
            row[0, : tensor.numel()] = tensor
            made[name] = _dtensor(parameter, row, (_num_shards(parameter), row.shape[1]))
        elif name != "step":
            whole = tuple(parameter.shape)
            made[name] = _dtensor(parameter, tensor.view(local(parameter).shape), whole)
    return made


def localized(stored: Mapping[str, Any], parameter: Any) -> dict[str, Any]:
    """A stored state as this process takes it: its shard of DTensors, as they were saved here."""
    if not is_sharded(parameter):
        if any(is_sharded(value) for value in stored.values()):
            raise InputError(
                "AdamW: the state of a parameter that is not sharded should be whole, was sharded"
                " (full_tensor() gathers what is not 8-bit)"
            )
        return dict(stored)
    taken: dict[str, Any] = {}
    for name, value in stored.items():
        taken[name] = value
        if name.endswith("_absmax") and is_sharded(value):
            expected = (_num_shards(parameter), _most_blocks(parameter))
            if tuple(value.shape) != expected:
                raise InputError(
                    f"AdamW: {name} should be of {expected[0]} shards of {expected[1]} blocks, was"
                    f" {list(value.shape)} (as_32_bit makes states that can be sharded anew)"
                )
            taken[name] = local(value)[0, : num_blocks(local(parameter).numel())]
        elif is_sharded(value):
            taken[name] = local(value)
        elif name != "step" and tuple(torch.as_tensor(value).shape) == tuple(parameter.shape):
            if value.dtype == torch.uint8:
                raise InputError(
                    f"AdamW: {name} of a sharded parameter should be sharded or 32-bit, was whole"
                    " and 8-bit (as_32_bit makes states that can be sharded)"
                )
            taken[name] = _cut(value, parameter)
    return taken


def _layout(parameter: Any) -> tuple[Any, tuple[int, ...]] | None:
    if not is_sharded(parameter):
        return None
    return parameter.device_mesh, _sharded_dimensions(parameter)


def _sharded_dimensions(parameter: Any) -> tuple[int, ...]:
    return tuple(i for i, placement in enumerate(parameter.placements) if placement.is_shard())


def _num_shards(parameter: Any) -> int:
    sizes = [parameter.device_mesh.size(i) for i in _sharded_dimensions(parameter)]
    if len(sizes) > 1:
        raise InputError(
            "AdamW: 8-bit states should be stored of parameters sharded in one dimension of a mesh,"
            f" were in {len(sizes)} (as_32_bit is for the others)"
        )
    return sizes[0] if sizes else 1


def _most_blocks(parameter: Any) -> int:
    """Of the largest shard, which torch.chunk puts first."""
    size = parameter.numel()
    for i in _sharded_dimensions(parameter):
        length = parameter.shape[parameter.placements[i].dim]
        size = size // max(1, length) * -(-length // parameter.device_mesh.size(i))
    return num_blocks(size)


def _dtensor(parameter: Any, shard: Tensor, shape: tuple[int, ...]) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard

    whole = shape == tuple(parameter.shape)
    placements = parameter.placements
    if not whole:
        placements = [Shard(0) if p.is_shard() else p for p in placements]
    stride = parameter.stride() if whole else (shape[1], 1)
    return DTensor.from_local(
        shard,
        parameter.device_mesh,
        placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=stride,
    )


def _cut(value: Tensor, parameter: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return local(distribute_tensor(whole, mesh, placements, src_data_rank=None))
