"""Builds the library `qlora_kernels`, its native kernels, and the application `qlora`."""

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CSRC = Path("csrc")
CUDA_MODULE, CUDA_BINDINGS = "qlora_kernels._cuda", {*CSRC.glob("bindings/cuda*.cpp")}

# No -march and no -ffast-math: instruction sets are chosen at run time, and codecs are bit-exact on
# all of them, which forbids contracting a * b + c. OpenMP is compiled for but not linked: the
# runtime of torch is used (qlora_kernels/native.py), since two of them would fight for the cores.
COMPILE_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fvisibility=hidden"]
WARNING_FLAGS = ["-Wall", "-Wextra", "-Wconversion"]
# `make sanitize`: out-of-bounds, use after free and undefined behaviour end the process.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZE_FLAGS = [*SANITIZERS, "-O1", "-g1", "-fno-omit-frame-pointer"]

# nvcc's own flags, which the compile gate reads too: --fmad=false is -ffp-contract=off again.
NVCC_OPTIONS = CSRC / "cuda/nvcc.options"
CUDA_ARCHITECTURES = os.environ.get("QLORA_CUDA_ARCH", "80,89,90a")
BUILD_JOBS = int(os.environ.get("QLORA_BUILD_JOBS", os.cpu_count() or 1))


class BuildExtension(build_ext):
    """`build_ext` that knows nvcc, and says what to install where there is no compiler."""

    def build_extensions(self) -> None:
        """Compile, or end with one line that tells what is missing."""
        try:
            super().build_extensions()
        except CompileError as error:
            raise SystemExit(
                "qlora_kernels: the native kernels should build with g++ 11 or newer "
                f"(Debian, Ubuntu: apt install g++), was refused: {error}"
            ) from None

    def build_extension(self, ext: Extension) -> None:
        """Compile and link CUDA sources by nvcc alone, which knows where its own files are."""
        if ext.name != CUDA_MODULE:
            super().build_extension(ext)
            return
        target = Path(self.get_ext_fullpath(ext.name))
        made_of = [Path(file).stat().st_mtime for file in [*ext.sources, *ext.depends]]
        if target.exists() and target.stat().st_mtime > max(made_of) and not self.force:
            return
        folder = Path(self.build_temp) / "cuda"
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        objects = {source: str(folder / f"{Path(source).name}.o") for source in ext.sources}
        with ThreadPoolExecutor(BUILD_JOBS) as pool:
            list(pool.map(compile_cuda, objects.keys(), objects.values()))
        linker = ["-shared", "--cudart=static", "-Xlinker=--exclude-libs,ALL"]
        nvcc(*linker, *objects.values(), "-o", str(target))


def compile_cuda(source: str, target: str) -> None:
    """One source for all architectures, and the last one's PTX for GPUs of later ones.

    A single architecture is that of the machine at hand, which needs no PTX.
    """
    names = CUDA_ARCHITECTURES.split(",")
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    if len(names) > 1:
        last = names[-1].rstrip("a")  # what only one architecture has, its PTX cannot hand on
        codes += [f"-gencode=arch=compute_{last},code=compute_{last}"]
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    flags = ["--options-file", str(NVCC_OPTIONS), "-Xcompiler=-fPIC,-fvisibility=hidden"]
    nvcc(*flags, *codes, *includes, "-c", source, "-o", target)


def nvcc(*arguments: str) -> None:
    """Run it, or end with the first line of what it says."""
    done = subprocess.run(["nvcc", *arguments], capture_output=True, text=True)
    if done.returncode:
        output = (done.stderr + done.stdout).strip().splitlines()
        reason = next((line for line in output if "error" in line), "no output")
        raise SystemExit(
            f"qlora_kernels: nvcc should compile csrc/cuda, said: {reason} "
            "(QLORA_CUDA_ARCH= builds without CUDA)"
        )


def cuda_extension() -> list[Extension]:
    """`qlora_kernels._cuda`, where there is nvcc; else one line says why not."""
    reason = "QLORA_CUDA_ARCH is empty" if not CUDA_ARCHITECTURES else "nvcc is not installed"
    if not CUDA_ARCHITECTURES or shutil.which("nvcc") is None:
        print(f"qlora_kernels: the CUDA kernels are not built, {reason}")
        return []
    sources = sorted(map(str, [*CSRC.glob("cuda/*.cu"), *CUDA_BINDINGS]))
    headers = [p for f in ("common", "cuda", "bindings") for p in (CSRC / f).glob("*.[hi]*")]
    return [Extension(CUDA_MODULE, sources, depends=sorted(map(str, [*headers, NVCC_OPTIONS])))]


def cpu_extension() -> Pybind11Extension:
    """`qlora_kernels._cpu`, from csrc/common, csrc/cpu and csrc/bindings."""
    sources = {*CSRC.glob("cpu/*.cpp"), *CSRC.glob("bindings/*.cpp")} - CUDA_BINDINGS
    folders = ("common", "cpu", "bindings")
    headers = [p for f in folders for p in (CSRC / f).iterdir() if p.suffix in (".h", ".inl")]
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

ParallelCompile("QLORA_BUILD_JOBS", default=BUILD_JOBS).install()

setup(
    packages=LIBRARY + APPLICATION,
    package_dir={"qlora_kernels": "qlora_kernels", "qlora": "python/qlora"},
    ext_modules=[cpu_extension(), *cuda_extension()],
    cmdclass={"build_ext": BuildExtension},
)
