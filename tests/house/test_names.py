"""Names that say what a thing is, and nothing of the machine it was written on."""

import re
from pathlib import Path

import pytest

from house.tree import code, files, read

EMPTY_WORDS = {"util", "utils", "helper", "helpers", "misc", "v2", "new", "fast", "experimental"}
SHADOWS = {"triton.py", "torch.py"}  # run from their own folder, they hide the package
MACHINE = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|opt)/\w")
BINARY = {".png", ".safetensors", ".gguf"}


def name_faults(file: Path) -> set[str]:
    words = {word for part in file.parts for word in re.split(r"[\W_]+", part.lower())}
    return (words & EMPTY_WORDS) | ({file.name} & SHADOWS)


def test_names_say_something():
    assert not [str(file) for file in files() if name_faults(file)]


@pytest.mark.parametrize("name", ["a/utils.py", "fast_linear.cpp", "ops/x/triton.py", "v2/x.py"])
def test_an_empty_name_is_found(name: str):
    assert name_faults(Path(name))


def test_no_machine_paths():
    texts = [file for file in files() if file.suffix not in BINARY]
    assert not [str(file) for file in texts if MACHINE.search(read(file))]
    assert MACHINE.search("open('/" + "home/someone/x')")


def test_every_package_folder_is_a_package():
    """find_packages leaves out a folder without __init__.py: installed, it would be missing."""
    packaged = [file for file in code("Python") if file.parts[0] in ("qlora_kernels", "python")]
    missing = {file.parent / "__init__.py" for file in packaged} - set(files())
    assert not sorted(map(str, missing))
