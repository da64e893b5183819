"""The optimizer of a run, and what it says about its states."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import qlora_kernels as qk
from qlora.train.budget import Budget
from qlora.train.settings import TrainSettings


def build_optimizer(
    settings: TrainSettings, parameters: Mapping[str, torch.nn.Parameter], page_file: Path
) -> torch.optim.Optimizer:
    """AdamW over what the method trains; `initial_lr` is a group's peak.

    page_file: where pages of states go that memory has no room for. Clipping is the step's matter,
    which must see the norm before anything changes.
    """
    decided = settings.decided
    named = qk.nn.parameter_groups(
        parameters, decided.learning_rate, decided.lora_plus_ratio, decided.weight_decay
    )
    groups = [{**group, "initial_lr": group["lr"]} for group in named]
    if settings.optimizer == "adamw":
        # Not ours, though its 32-bit bits are the same but for parameters that end in less than a
        # vector: runs from before there was ours resume with those bits too.
        return torch.optim.AdamW(groups, fused=True)
    options: dict[str, Any] = {"bits": 8 if "8bit" in settings.optimizer else 32}
    if settings.optimizer.startswith("paged"):
        options |= {"paged": True, "page_file": page_file}
        if settings.optimizer_memory:
            budget = Budget.read("train: optimizer_memory", settings.optimizer_memory)
            whole = qk.optim.state_bytes(parameters.values(), options["bits"])
            options["memory_budget"] = budget.bytes_of(whole)
    return qk.optim.AdamW(groups, skip_nonfinite=False, **options)


def describe_optimizer(optimizer: torch.optim.Optimizer) -> str:
    """One line before the first step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(optimizer, qk.optim.AdamW):
        return f"AdamW, 32-bit states ({_mebibytes(qk.optim.state_bytes(parameters, 32))})"
    settings = optimizer.settings
    size = qk.optim.state_bytes(parameters, settings.bits)
    text = f"AdamW, {settings.bits}-bit states ({_mebibytes(size)})"
    if settings.memory_budget is not None:
        return f"{text}, paged: at most {_mebibytes(settings.memory_budget)} in memory"
    return f"{text}, paged: where memory runs out" if settings.paged else text


def states_to_come(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of memory that the first step takes for states; what is paged out takes none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if optimizer.state:
        return 0
    if not isinstance(optimizer, qk.optim.AdamW):
        return qk.optim.state_bytes(parameters, 32)
    settings = optimizer.settings
    size = qk.optim.state_bytes(parameters, settings.bits)
    return min(size, settings.memory_budget or 0) if settings.paged else size


def describe_paging(stats: Mapping[str, Any]) -> str:
    """One line after the last step."""
    if not stats["copies"]:
        return f"{_mebibytes(stats['peak_resident_bytes'])} of states, all in memory"
    return (
        f"{_mebibytes(stats['state_bytes'])} of states, at most"
        f" {_mebibytes(stats['peak_resident_bytes'])} in memory; {stats['copies']:,} page copies,"
        f" {stats['stalls']:,} waited for"
    )


def paging_stats(optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Of a paged optimizer."""
    if isinstance(optimizer, qk.optim.AdamW) and optimizer.settings.paged:
        return optimizer.paging_stats()
    return None


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
