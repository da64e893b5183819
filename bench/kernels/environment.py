"""What must be set before a process starts: threads bound to processors, and the allocator.

glibc gives blocks over 32 MiB back to the system at once, so a peer that makes a dense weight in
each call pays for its pages each time. "raised" spares it that: be judged against both.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ALLOCATORS = ("default", "raised")
RAISED_BYTES = "8000000000"  # never give back, never map apart
_MARK = "QLORA_BENCH_PROCESSORS"  # set: started again, from a process that might run on these
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def wanted(threads: int, allocator: str) -> dict[str, str]:
    """The variables of a run."""
    found = {
        _MARK: ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "OMP_NUM_THREADS": str(threads),
        "OMP_PROC_BIND": "true",
        "OMP_PLACES": "threads",
    }
    if allocator == "raised":
        found |= dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), RAISED_BYTES)
    return found


def start_again(variables: Mapping[str, str], arguments: Sequence[str] | None = None) -> None:
    """Replace this process by the same command under `variables`, unless they are set already."""
    if os.environ.get(_MARK):
        return
    words = sys.argv[1:] if arguments is None else arguments
    command = [sys.executable, "-m", "bench", *words]
    os.execve(sys.executable, command, {**os.environ, **variables})


@contextmanager
def unbound() -> Iterator[None]:
    """Processes started within may run wherever this run may.

    OpenMP has bound this thread to one processor, which a process that it starts would inherit: all
    of that one's threads would share it.
    """
    bound, processors = os.sched_getaffinity(0), os.environ.get(_MARK)
    if processors:
        os.sched_setaffinity(0, set(map(int, processors.split(","))))
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


def clocks_now(device: str) -> dict[str, object]:
    """What the clocks show right after a measurement; None: this machine does not tell.

    cpu_mhz: of each core. governor: how Linux chooses it. gpu_mhz: of the multiprocessors.
    """
    cpuinfo, governor = Path("/proc/cpuinfo"), Path(_GOVERNOR)
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    megahertz = [round(float(found)) for found in re.findall(r"cpu MHz\s*: ([\d.]+)", text)]
    found: dict[str, object] = {
        "cpu_mhz": megahertz or None,
        "governor": governor.read_text(encoding="utf-8").strip() if governor.exists() else None,
    }
    return {**found, "gpu_mhz": _gpu_mhz()} if device == "cuda" else found


def _gpu_mhz() -> int | None:
    query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout
        return int(output.splitlines()[0])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None  # no driver's tool here, or it has no such figure
