"""What must be set before a process starts: threads bound to processors, and the allocator.

glibc gives blocks over 32 MiB back to the system at once, so a peer that makes a dense weight in
each call pays for its pages each time. "raised" spares it that: be judged against both.
"""

import os
import sys
from collections.abc import Mapping, Sequence

ALLOCATORS = ("default", "raised")
RAISED_BYTES = "8000000000"  # never give back, never map apart
_MARK = "QLORA_BENCH_STARTED"


def wanted(threads: int, allocator: str) -> dict[str, str]:
    """The variables of a run."""
    found = {
        _MARK: "1",
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
