"""Plans that were measured on this machine, kept on disk; the launch table decides where none was.

    <cache>/plans-<key>.json = {"<problem>": "<plan's name>", ...}

<cache> is QLORA_CACHE_DIR, or qlora_kernels in XDG_CACHE_HOME (~/.cache). The key is of the device,
its driver, torch, triton and the sources of the kernels: what was measured by others is not asked.
With QLORA_TUNE=1 a problem that the file does not know is measured at its first sight, except while
a CUDA graph is captured, when nothing may wait for the GPU.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import torch

from qlora_kernels.files import write_text
from qlora_kernels.gpu.availability import capturing

TUNE = "QLORA_TUNE"
_WARM_UP, _TIMED = 3, 7  # calls of each candidate
_PACKAGE = Path(__file__).parents[1]


def tuned(problem: str, candidates: Sequence[str], run: Callable[[str], object]) -> str | None:
    """The best candidate for a problem as far as this machine knows; None: ask the table.

    run: does the work by one candidate. Choices stay the same from run to run, and so do bits.
    """
    known = plans()
    if problem not in known and _tunes() and not capturing():
        times = {name: milliseconds(partial(run, name)) for name in candidates}
        known[problem] = min(times, key=times.__getitem__)
        write_text(file(), json.dumps(known, indent=1) + "\n")
    chosen = known.get(problem)
    return chosen if chosen in candidates else None


def is_asked() -> bool:
    """Whether `tuned` may know or learn anything: a call's time is short."""
    return bool(plans()) or _tunes()


def _tunes() -> bool:
    return os.environ.get(TUNE) == "1"


def milliseconds(call: Callable[[], object]) -> float:
    """The best of a few calls on the GPU, after some that compile and warm up."""
    for _ in range(_WARM_UP):
        call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(_TIMED + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    events[-1].synchronize()
    return float(min(a.elapsed_time(b) for a, b in pairwise(events)))


def cache_folder() -> Path:
    """Where this library keeps what it measured."""
    if told := os.environ.get("QLORA_CACHE_DIR"):
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qlora_kernels"


def file() -> Path:
    """The plans of this machine."""
    return cache_folder() / f"plans-{_key()}.json"


@cache
def plans() -> dict[str, str]:
    """What the file holds, read once; nothing, with one warning, if it is no such file."""
    try:
        read = json.loads(file().read_text(encoding="utf-8"))
        if not isinstance(read, dict) or not all(isinstance(v, str) for v in read.values()):
            raise ValueError("not a table of names")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"qlora_kernels: {file()} is not read: {error}", stacklevel=2)
        return {}
    return read


@cache
def _key() -> str:
    facts = [torch.__version__, triton_version(), _sources()]
    if torch.cuda.is_available():
        driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
        facts += [torch.cuda.get_device_name(), str(driver)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def triton_version() -> str:
    """Of what is imported: its package has other names in some vendors' containers."""
    import triton

    return str(triton.__version__)


def _sources() -> str:
    """A hash of the device code and of the plans that it is launched with."""
    files = sorted([*_PACKAGE.glob("**/*_device.py"), *_PACKAGE.glob("ops/*/triton_plan.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
