"""One file per peer: `missing()` says why it cannot take part; its ops are functions by op name."""

from importlib import import_module
from types import ModuleType

from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

PEERS = {
    "torch": "bench.kernels.peers.torch_dense",
    "bitsandbytes": "bench.kernels.peers.bitsandbytes_layers",
    "unpaged": "bench.kernels.peers.unpaged",
    "peft": "bench.kernels.peers.peft_layers",
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
    return reason or (None if hasattr(peer, op) else f"has no {op}")


def import_refusal(package: str) -> str | None:
    """`is not installed`, or None: the usual `missing()`."""
    try:
        import_module(package)
    except ImportError as error:
        return f"does not load: {error}"
    return None
