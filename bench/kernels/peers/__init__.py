"""One file per peer: `missing()` says why it cannot take part; its ops are functions by op name.

A peer that quantizes by itself has other codes, hence another truth: its `expected(problem)`.
"""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from bench.kernels.case import Expected
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

PEERS = {
    "torch": "bench.kernels.peers.torch_dense",
    "bitsandbytes": "bench.kernels.peers.bitsandbytes_layers",
    "peft": "bench.kernels.peers.peft_layers",
    "unsloth-style": "bench.kernels.peers.unsloth_style",
    "torchao": "bench.kernels.peers.torchao_layers",
    "triton": "bench.kernels.peers.triton_backend",
    "frozen": "bench.kernels.peers.frozen",
    "lora": "bench.kernels.peers.lora",
    "unpaged": "bench.kernels.peers.unpaged",
}


def load(names: str) -> dict[str, ModuleType]:
    """The files of the comma-separated peers."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in PEERS:
            hint = did_you_mean(name, PEERS) or f" (known: {', '.join(PEERS)})"
            raise InputError(f"bench: --against should name peers, was {name!r}{hint}")
    return {name: import_module(PEERS[name]) for name in chosen}


def refusal(peer: ModuleType, op: str) -> str | None:
    """Why this peer cannot run this op here, in one phrase, or None."""
    reason: str | None = peer.missing()
    return reason or (None if hasattr(peer, op) else f"bench has no {op} of it")


def truth(peer: ModuleType, problem: Any, ours: Mapping[str, Expected]) -> Mapping[str, Expected]:
    """What the outputs of this peer should be."""
    return {**ours, **peer.expected(problem)} if hasattr(peer, "expected") else ours


def import_refusal(package: str) -> str | None:
    """`is not installed`, or None: the usual `missing()`."""
    try:
        import_module(package)
    except ImportError as error:
        return f"does not load: {error}"
    return None
