"""What the tests run is this tree, and its extension is no older than its sources."""

from pathlib import Path

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
    sources = [file for file in files() if file.parts[0] == "csrc"]
    newer = [str(file) for file in sources if (ROOT / file).stat().st_mtime > built]
    assert not newer, "rebuild: pip install --no-deps --editable ."
