"""Arrows point down: in Python by import-linter's contracts, in C++ by what a file includes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from posixpath import normpath

import pytest

from house.tree import ROOT, code, read

LAYER = {"common": 0, "cpu": 1, "cuda": 1, "bindings": 2}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)
REGION = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+GCC[ \t]+push_options", re.MULTILINE)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_python_arrows_point_down():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_upward_import_is_found(tmp_path: Path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sources_only = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "qlora_kernels", tmp_path / "qlora_kernels", ignore=sources_only)
    shutil.copytree(ROOT / "python/qlora", tmp_path / "qlora", ignore=sources_only)
    (tmp_path / "qlora_kernels/formats/upward.py").write_text("from qlora_kernels import ops\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "qlora_kernels.formats is not allowed to import qlora_kernels.ops" in result.stdout


def include_faults(file: Path, text: str) -> list[str]:
    """Includes that point up or sideways, bring torch, or stand in an instruction-set region."""
    faults = []
    own = file.parts[1]
    region = REGION.search(text)
    for include in INCLUDE.finditer(text):
        name = include[1]
        below = [Path(name), Path(normpath(file.parent / name)).relative_to("csrc")]
        layer = next((path.parts[0] for path in below if path.parts[0] in LAYER), own)
        if name.startswith(("torch/", "ATen/", "c10/")):
            faults.append(f"{file}: {name} is a torch header")
        if layer != own and LAYER[layer] >= LAYER[own]:
            faults.append(f"{file}: {own} must not include {name} of {layer}")
        in_region = file.suffix == ".inl" or (region and region.start() < include.start())
        if in_region and not name.endswith(".inl"):
            faults.append(f"{file}: {name} must be included above the pragma that opens the region")
    return faults


def test_cpp_arrows_point_down():
    sources = [file for file in code("C++") if file.parts[0] == "csrc"]
    assert sources
    assert not [fault for file in sources for fault in include_faults(file, read(file))]


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("csrc/common/nf4.h", '#include "../cpu/kernels.h"', "must not include"),
        ("csrc/cpu/kernels.cpp", '#include "cuda/launchers.h"', "must not include"),
        ("csrc/bindings/cpu.cpp", "#include <torch/extension.h>", "torch header"),
        ("csrc/cpu/isa_avx2.cpp", "#pragma GCC push_options\n#include <cmath>", "above the pragma"),
        ("csrc/cpu/quantize.inl", "#include <cmath>", "above the pragma"),
    ],
)
def test_a_wrong_include_is_found(file: str, text: str, fault: str):
    assert fault in "".join(include_faults(Path(file), text))


def test_a_right_include_passes():
    text = '#include "../common/nf4.h"\n#pragma GCC push_options\n#include "quantize.inl"\n'
    assert include_faults(Path("csrc/cpu/isa_avx2.cpp"), text) == []
