"""Where a measured number comes from: the code, the packages, the machine, the day."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("qlora_kernels", "torch", "transformers", "hassil", "home-assistant-intents")


def provenance() -> dict[str, object]:
    """Commit, date, versions and machine, ready for JSON."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "machine": {"cpu": cpu_model(Path("/proc/cpuinfo")), "cores": os.cpu_count()},
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def commit() -> str | None:
    """The commit of the sources, marked where they differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    try:
        result = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None
    return result.stdout.strip() or None


def cpu_model(cpuinfo: Path) -> str:
    """The processor as Linux names it, else its architecture."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.machine()
