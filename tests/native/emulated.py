"""AVX-512 where the machine lacks it: the same bodies, compiled against emulated intrinsics.

The build is kept under build/, named by what it was made of.
"""

import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
EMULATION = ROOT / "tests/native/emulation"
FLAGS = ["-std=c++20", "-O1", "-shared", "-fPIC", "-fopenmp", "-fvisibility=hidden"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-DQLORA_EMULATION", f"-I{EMULATION}"]
FLAGS += ["-Wall", "-Wextra", "-Wno-psabi"]  # the last tells how such wide vectors are passed
if os.environ.get("QLORA_SANITIZE"):
    FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1"]


def kernels(with_extensions: bool = True) -> int:
    """The address of the emulated kernels; `use_kernels` of the native module takes it.

    with_extensions: whether the machine that they think they run on has BF16, VBMI and VNNI.
    """
    address_of = _library().emulated_kernels
    address_of.argtypes, address_of.restype = [ctypes.c_bool], ctypes.c_void_p
    return int(address_of(with_extensions))


@cache
def _library() -> ctypes.CDLL:
    library = ROOT / "build/emulation" / f"avx512-{_digest()}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")  # another process may build the same
        sources = [EMULATION / "avx512.cpp", ROOT / "csrc/cpu/state_file.cpp"]
        command = ["g++", *FLAGS, *map(str, sources), "-o", str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        unfinished.rename(library)
    return ctypes.CDLL(str(library))


def _digest() -> str:
    folders = ("csrc/common", "csrc/cpu", "tests/native/emulation")
    sources = sorted(path for folder in folders for path in (ROOT / folder).iterdir())
    text = b"".join(path.read_bytes() for path in sources)
    return hashlib.sha256(text + repr(FLAGS).encode()).hexdigest()[:16]
