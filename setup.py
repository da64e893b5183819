"""Builds the library `qlora_kernels`, its native kernels, and the application `qlora`."""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CSRC = Path("csrc")

# No -march and no -ffast-math: instruction sets are chosen at run time, and codecs are bit-exact on
# all of them, which forbids contracting a * b + c. OpenMP is compiled for but not linked: the
# runtime of torch is used (qlora_kernels/native.py), since two of them would fight for the cores.
COMPILE_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fvisibility=hidden"]
WARNING_FLAGS = ["-Wall", "-Wextra", "-Wconversion"]
# `make sanitize`: out-of-bounds, use after free and undefined behaviour end the process.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZE_FLAGS = [*SANITIZERS, "-O1", "-g1", "-fno-omit-frame-pointer"]


class BuildExtension(build_ext):
    """`build_ext` that says what to install where there is no compiler."""

    def build_extensions(self) -> None:
        """Compile, or end with one line that tells what is missing."""
        try:
            super().build_extensions()
        except CompileError as error:
            raise SystemExit(
                "qlora_kernels: the native kernels should build with g++ 11 or newer "
                f"(Debian, Ubuntu: apt install g++), was refused: {error}"
            ) from None


def cpu_extension() -> Pybind11Extension:
    """`qlora_kernels._cpu`, from csrc/common, csrc/cpu and csrc/bindings."""
    sources = [*CSRC.glob("cpu/*.cpp"), *CSRC.glob("bindings/*.cpp")]
    headers = [p for p in CSRC.rglob("*") if p.suffix in (".h", ".inl")]
    sanitize = bool(os.environ.get("QLORA_SANITIZE"))
    return Pybind11Extension(
        "qlora_kernels._cpu",
        sorted(map(str, sources)),
        depends=sorted(map(str, headers)),
        cxx_std=20,
        extra_compile_args=[*COMPILE_FLAGS, *WARNING_FLAGS, *(SANITIZE_FLAGS if sanitize else [])],
        extra_link_args=SANITIZERS if sanitize else [],
    )


LIBRARY = find_packages(include=["qlora_kernels*"])
APPLICATION = find_packages("python", include=["qlora*"])

ParallelCompile("QLORA_BUILD_JOBS", default=os.cpu_count() or 1).install()

setup(
    packages=LIBRARY + APPLICATION,
    package_dir={"qlora_kernels": "qlora_kernels", "qlora": "python/qlora"},
    ext_modules=[cpu_extension()],
    cmdclass={"build_ext": BuildExtension},
)
