"""Where a measured number comes from: the code, the packages, the machine, the day."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def provenance(packages: Iterable[str]) -> dict[str, object]:
    """Commit, date, versions and machine, ready for JSON; `packages` decide the numbers."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(packages),
        "machine": machine(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree that was never installed, an absent peer
            continue
    return found


def commit() -> str | None:
    """The commit of the sources, marked where they differ from it; None outside a repository.

    A copy of the sources that left its repository behind is told by QLORA_COMMIT.
    """
    if told := os.environ.get("QLORA_COMMIT"):
        return told
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    try:
        result = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None
    return result.stdout.strip() or None


def machine() -> dict[str, object]:
    """The processor, and the GPU where a program has one: they decide what a time means."""
    found: dict[str, object] = {"cpu": cpu_model(Path("/proc/cpuinfo")), "cores": os.cpu_count()}
    gpu = gpu_model()
    return found if gpu is None else {**found, "gpu": gpu}


def gpu_model() -> str | None:
    """The GPU as its driver names it; None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def cpu_model(cpuinfo: Path) -> str:
    """The processor as Linux names it, else its architecture. Where a virtual machine keeps the
    name's number back, as in "AMD EPYC", its family and model tell the generations apart.
    """
    if not cpuinfo.exists():
        return platform.machine()
    first, *_ = cpuinfo.read_text().split("\n\n")
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in pairs}
    name = fields.get("model name", platform.machine())
    if any(map(str.isdigit, name)) or not {"cpu family", "model"} <= fields.keys():
        return name
    return f"{name} (family {fields['cpu family']}, model {fields['model']})"
