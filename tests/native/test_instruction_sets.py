"""Which kernels run: the widest by default, the forced one, and a clear refusal of any other."""

import os
import subprocess
import sys

import pytest

import qlora_kernels as qk
from native.conftest import ISAS
from qlora_kernels import native

NAME = "from qlora_kernels import native; print(native.cpu().isa())"


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_serial_always_runs():
    assert ISAS[-1] == "serial"


def test_the_widest_is_the_default():
    assert run(NAME, QLORA_CPU_ISA="").stdout.split() == ISAS[:1]


@pytest.mark.parametrize("name", ISAS)
def test_the_environment_forces_one(name: str):
    done = run(NAME, QLORA_CPU_ISA=name)
    assert (done.stdout.split(), done.stderr) == ([name], "")


@pytest.mark.parametrize("program", [NAME, "import qlora_kernels as qk; qk.backends()"])
def test_an_unknown_one_is_refused_by_name(program: str):
    done = run(program, QLORA_CPU_ISA="mmx")
    assert done.returncode == 1
    wanted = f"QLORA_CPU_ISA: should be one of {', '.join(ISAS)} (what this machine runs), was mmx"
    assert done.stderr.splitlines()[-1] == f"qlora_kernels.errors.InputError: {wanted}"


def test_use_isa_refuses_an_unknown_one():
    with pytest.raises(ValueError, match=r"use_isa: should be one of .*serial .*, was mmx"):
        native.cpu().use_isa("mmx")


def test_a_missing_module_is_a_refusal(monkeypatch: pytest.MonkeyPatch):
    """Importing the library works without it; the reference backend then runs."""
    monkeypatch.setitem(sys.modules, "qlora_kernels._cpu", None)
    native._load_cpu.cache_clear()
    try:
        assert "does not load" in qk.backends()["cpu"]
        with pytest.raises(ImportError, match="pip install"):
            native.cpu()
    finally:
        native._load_cpu.cache_clear()
