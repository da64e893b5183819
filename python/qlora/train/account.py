"""A run's memory after the fact: what `qlora plan` says of it beside what was there.

Weights, adapters, gradients and states are counted tensor by tensor, activations by what forward
keeps (`qlora.train.memory`). What lives within a kernel call only, chunks of logits and workspace,
is seen in the peak of a GPU alone; a process holds libraries and its allocator's reserve beside.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import qlora_kernels as qk
from qlora.objective import head_weight
from qlora.plan.memory import Forecast
from qlora.plan.run import forecast_of
from qlora.train.run import Run
from qlora_kernels.errors import InputError
from qlora_kernels.nn import QLoRALinear

MIB = 2**20


@dataclass(frozen=True)
class MemoryAccount:
    """Bytes by component; measured None: lives too shortly to be counted.

    peak: of all tensors on a GPU, and else of the process.
    """

    predicted: Mapping[str, int]
    measured: Mapping[str, int | None]
    peak: int
    on_gpu: bool

    def describe(self) -> str:
        """A table of MiB."""
        lines = ["memory, MiB     predicted  measured"]
        for name, predicted in self.predicted.items():
            if measured := self.measured[name]:
                lines.append(f"  {name:14}{predicted / MIB:9.1f}{measured / MIB:10.1f}")
            elif predicted:
                lines.append(f"  {name:14}{predicted / MIB:9.1f}         -")
        beside = "" if self.on_gpu else ", the process with libraries and its allocator's reserve"
        total = sum(self.predicted.values())
        lines.append(f"  {'peak':14}{total / MIB:9.1f}{self.peak / MIB:10.1f}{beside}")
        return "\n".join(lines)


def account(run: Run, kept: int | None, peak: int) -> MemoryAccount:
    """Of a run that has taken a step; raises InputError where the planner has no such sum."""
    predicted = _forecast(run).components
    trained = sum(p.nbytes for p in run.parameters.values())
    measured = {
        **_weights(run),
        "gradients": trained,
        "optimizer": _states(run.optimizer),
        "activations": None if kept is None else kept - _head_gradient(run),
    }
    by_name = {name: measured.get(name) for name in predicted}
    return MemoryAccount(predicted, by_name, peak, on_gpu=run.model.device.type == "cuda")


def _forecast(run: Run) -> Forecast:
    """By the rows that there are, which may be shorter than they were allowed to be."""
    model = run.model
    forecast = forecast_of(
        run.settings,
        model.config.to_dict(),
        dtype=str(model.dtype).removeprefix("torch."),
        device="gpu" if model.device.type == "cuda" else "cpu",
    )
    longest = max(sum(map(len, row)) for row in run.rows)
    packed = any(len(row) > 1 for row in run.rows)
    rows = min(run.settings.batch_size, len(run.rows))
    return forecast.changed(sequence_length=longest, batch_size=rows, packing=packed)


def _weights(run: Run) -> dict[str, int]:
    """The model's own tensors, each once."""
    model, adapters = run.model, {id(p) for p in run.parameters.values()}
    sizes = dict.fromkeys(("codes", "scales", "weights", "embeddings", "small", "adapters"), 0)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(p) for module in ends if module for p in module.parameters()}
    for parameter in model.parameters():
        if parameter.dtype == torch.uint8:
            name = "codes"
        elif id(parameter) in embeddings:
            name = "embeddings"
        elif id(parameter) in adapters and run.settings.method != "full":
            name = "adapters"
        else:
            name = "weights" if parameter.dim() > 1 else "small"
        sizes[name] += parameter.nbytes
    for layer in model.modules():
        if isinstance(layer, QLoRALinear):
            sizes["scales"] += sum(buffer.nbytes for buffer in layer.buffers(recurse=False))
    return sizes


def _head_gradient(run: Run) -> int:
    """Bytes that forward keeps of a trained head, whose gradient it makes: the plan counts them
    with the logits."""
    return head_weight(run.model).nbytes if run.settings.method == "full" else 0


def _states(optimizer: torch.optim.Optimizer) -> int:
    if isinstance(optimizer, qk.optim.AdamW) and optimizer.settings.paged:
        return int(optimizer.paging_stats()["peak_resident_bytes"])
    states = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in states if isinstance(value, Tensor) and value.dim())


def account_or_reason(run: Run, kept: int | None, peak: int) -> MemoryAccount | str:
    """The account, or in one line why there is none."""
    try:
        return account(run, kept, peak)
    except InputError as error:
        return str(error).removeprefix("plan: ")
