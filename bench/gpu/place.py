"""Where a run happens: the root, the folder for results, the clock, and the environment."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
GPU, REHEARSAL = "gpu", "cpu-interpreter"
DEVICES = (GPU, REHEARSAL)


@dataclass(frozen=True)
class Place:
    """What every stage knows. On the rehearsal device Python plays the GPU, with tiny cases."""

    output: Path
    device: str
    end: float  # on the monotonic clock
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def rehearses(self) -> bool:
        return self.device == REHEARSAL

    @property
    def seconds_left(self) -> float:
        return self.end - monotonic()

    def log(self, text: str) -> None:
        """Keep the whole output of a stage, of which only a line is printed."""
        with (self.output / "stages.log").open("a", encoding="utf-8") as file:
            file.write(text)

    def python(self, *arguments: str, seconds: float | None = None) -> tuple[int, str]:
        """Run this Python in the root; (exit code, output). 124: it ran out of time."""
        return self.call([sys.executable, *arguments], seconds)

    def call(self, command: Sequence[str], seconds: float | None = None) -> tuple[int, str]:
        left = max(1.0, self.seconds_left)
        limit = left if seconds is None else min(seconds, left)
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,  # so that what it started ends with it
            )
        except FileNotFoundError:
            return 127, f"{command[0]} is not installed\n"
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return 124, f"{output}\nstopped after {limit:.0f} s\n"
        return process.returncode, output


def variables(rehearses: bool, packages: Path | None) -> dict[str, str]:
    """Our sources come first; packages from wheels last, so that they hide nothing."""
    paths = [str(ROOT), str(ROOT / "python")]
    paths += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    paths += [str(packages)] if packages else []
    found = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the deterministic one that torch asks for
        "PYTHONUNBUFFERED": "1",
    }
    return found | ({"TRITON_INTERPRET": "1"} if rehearses else {})


def slug(name: str) -> str:
    """A machine's name as a folder's: `NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
