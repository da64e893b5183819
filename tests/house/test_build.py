"""What the tests run is this tree, and its extension is no older than its sources."""

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

import qlora
import qlora_kernels
from house.tree import ROOT, files
from qlora_kernels import native


def test_the_packages_are_those_of_this_tree():
    assert Path(qlora_kernels.__file__).parent == ROOT / "qlora_kernels"
    assert Path(qlora.__file__).parent == ROOT / "python/qlora"


def test_the_native_kernels_are_built_from_these_sources():
    assert native.cpu_refusal() is None
    built = Path(native.cpu().__file__).stat().st_mtime
    sources = [
        f
        for f in files()
        if f.parts[0] == "csrc" and f.parts[1] != "cuda" and not f.stem.startswith("cuda")
    ]
    newer = [str(file) for file in sources if (ROOT / file).stat().st_mtime > built]
    assert not newer, "rebuild: pip install --no-deps --editable ."


@pytest.mark.parametrize("name", ["dequantize", "gone"])
def test_a_module_built_from_other_sources_is_told_in_one_sentence(monkeypatch, name: str):
    q = qlora_kernels.quantize(torch.randn(4, 64))
    module = native.cpu()
    old = ModuleType("qlora_kernels._cpu")  # without any of the functions, or with a wrong one
    old.Tables, old.Weight = module.Tables, module.Weight
    if name == "dequantize":
        old.dequantize = lambda *arguments: module.dequantize(*arguments, "one more")
    monkeypatch.setattr(native, "cpu", lambda: old)
    with pytest.raises(qlora_kernels.InputError, match="_cpu should be built from") as told:
        qlora_kernels.dequantize(q)
    assert "\n" not in str(told.value)


def test_other_errors_of_a_kernel_stay_what_they_are(monkeypatch, tmp_path: Path):
    def run() -> None:
        raise TypeError("something else")

    with pytest.raises(TypeError, match="something else"):
        native.telling_stale(run)()
    built = ModuleType("qlora_kernels._cpu")
    built.__file__ = str(tmp_path / "_cpu.so")
    Path(built.__file__).touch()
    os.utime(built.__file__, (0, 0))  # older than its sources
    monkeypatch.setattr(native, "_load_cpu", lambda: (built, None))
    with pytest.raises(qlora_kernels.InputError, match="_cpu should be built from"):
        native.telling_stale(run)()
