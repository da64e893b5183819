"""Joules since the start, where the machine counts them: NVML of a GPU, RAPL of a processor."""

from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
MILLI, MICRO = 1e-3, 1e-6


def joules() -> float | None:
    """A counter that only its differences mean something of; None where it is not readable."""
    return _nvml() if torch.cuda.is_available() else _rapl(RAPL)


def spent(before: float | None, after: float | None) -> float | None:
    """after - before; None where a counter was not readable or began anew between them."""
    if before is None or after is None or after < before:
        return None
    return after - before


def _rapl(folder: Path) -> float | None:
    """The sum over the packages; their parts are in them already."""
    try:
        files = [f for f in folder.glob("*-rapl:*/energy_uj") if f.parent.name.count(":") == 1]
        return sum(int(file.read_text()) for file in files) * MICRO if files else None
    except OSError:  # since 2020 only root may read it
        return None


def _nvml() -> float | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * MILLI
    except Exception:  # not installed, or a GPU that does not count
        return None
