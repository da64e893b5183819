"""The states of all random generators that training draws from, as plain JSON values."""

import random
from typing import Any

import numpy
import torch

State = dict[str, Any]


def seed_all(seed: int) -> None:
    """Seed torch (all devices), numpy and python."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)


def capture() -> State:
    """The states of now."""
    numpy_state = numpy.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].tolist()
    return {
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": [_to_hex(state) for state in torch.cuda.get_rng_state_all()],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
        "python": random.getstate(),
    }


def restore(state: State) -> None:
    """Go back to captured states."""
    torch.set_rng_state(_from_hex(state["torch"]))
    torch.cuda.set_rng_state_all([_from_hex(text) for text in state["cuda"]])
    numpy_state = state["numpy"]
    key = numpy.array(numpy_state["state"]["key"], dtype=numpy.uint32)
    numpy.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _to_hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
