"""Instructions that a case executes, counted by valgrind: the same however busy the machine is."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qlora_kernels.errors import InputError

ISAS = ("avx2", "serial")  # valgrind knows no AVX-512
_COLLECTED = re.compile(r"Collected : (\d+)")


def missing() -> str | None:
    return None if shutil.which("valgrind") else "valgrind is not installed (apt install valgrind)"


def executed(folder: Path, num_jobs: int) -> dict[str, int]:
    """`avx2 qlora_linear m=1` -> instructions, for every case of the driver."""
    listed = subprocess.run(
        [folder / "driver", folder / "tables"], capture_output=True, text=True, check=True
    )
    cases = [(isa, name) for isa in ISAS for name in listed.stdout.splitlines()]
    with ThreadPoolExecutor(num_jobs) as pool:
        counts = pool.map(
            lambda case: counted([str(folder / "driver"), str(folder / "tables"), *case]), cases
        )
        return {" ".join(case): count for case, count in zip(cases, counts, strict=True)}


def counted(command: list[str]) -> int:
    """Instructions inside the program's function `measured`."""
    if reason := missing():
        raise InputError(f"gate: {reason}")
    options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured"]
    done = subprocess.run(["valgrind", *options, *command], capture_output=True, text=True)
    found = _COLLECTED.search(done.stderr)
    if done.returncode or found is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(f"gate: {' '.join(command[2:])} should run under valgrind, failed: {last}")
    return int(found[1])
