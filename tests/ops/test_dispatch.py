"""Choosing a backend: what can run, what is forced, and what a refusal says."""

import os
import subprocess
import sys

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.dispatch import Room

W = torch.randn(4, 64)


def test_the_native_backend_is_built():
    """`pip install` always builds it; here it may not be missing."""
    assert qk.backends()["cpu"] is None and qk.backends()["reference"] is None


def test_unknown_names_are_refused():
    with (
        pytest.raises(
            qk.InputError, match="use_backend: name should be one of cpu, triton, cuda, reference"
        ),
        qk.use_backend("tpu"),
    ):
        pass


class Kernel:
    """A kernel module as a Room sees it."""

    def __init__(self, backend: str, refusal: str | None) -> None:
        self.BACKEND = backend
        self._refusal = refusal

    def refuses(self, *arguments: object) -> str | None:
        return self._refusal


def test_the_first_kernel_that_does_not_refuse_runs():
    cpu, reference = Kernel("cpu", None), Kernel("reference", None)
    assert Room("op", cpu, reference).choose() is cpu
    with qk.use_backend("reference"):
        assert Room("op", cpu, reference).choose() is reference
        with qk.use_backend("cpu"):
            assert Room("op", cpu, reference).choose() is cpu
        assert Room("op", cpu, reference).choose() is reference
    assert Room("op", Kernel("cpu", "x is odd"), reference).choose() is reference


def test_every_refusal_is_listed():
    room = Room("op", Kernel("cpu", "x is odd"), Kernel("reference", "x is even"))
    text = "op: should have a backend that runs this call, was refused by cpu: x is odd"
    with pytest.raises(qk.InputError, match=f"^{text}; reference: x is even$"):
        room.choose()
    with qk.use_backend("cpu"), pytest.raises(qk.InputError, match=f"^{text}$"):
        room.choose()


def test_an_op_without_a_kernel_for_the_forced_backend_says_so():
    room = Room("op", Kernel("reference", None))
    with (
        qk.use_backend("cpu"),
        pytest.raises(qk.InputError, match="cpu: has no kernel for this op"),
    ):
        room.choose()


def test_a_forced_backend_that_refuses_raises_with_the_reason():
    x = torch.randn(2, 64, dtype=torch.float64)
    q = qk.quantize(W)
    with qk.use_backend("cpu"):
        with pytest.raises(qk.InputError, match=r"cpu: x is torch\.float64$"):
            qk.qlora_linear(x, q)
        with pytest.raises(qk.InputError, match=r"cpu: the base weight is dense$"):
            qk.qlora_linear(x.float(), W)
        with pytest.raises(qk.InputError, match=r"^quantize: .*cpu: w is torch\.float64$"):
            qk.quantize(W.double())
    assert qk.qlora_linear(x, q).dtype == torch.float64


def test_the_force_is_undone_by_an_error():
    with pytest.raises(KeyError), qk.use_backend("cpu"):
        raise KeyError
    assert qk.quantize(W.double()).dtype == torch.float64


def run_with(backend: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"QLORA_BACKEND": backend}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


REFUSED_BY_CPU = """
import torch, qlora_kernels as qk
try:
    qk.quantize(torch.ones(64, dtype=torch.float64))
except qk.InputError as error:
    print(error)
"""


def test_the_environment_forces_a_backend():
    assert run_with("cpu", REFUSED_BY_CPU).stdout.endswith("refused by cpu: w is torch.float64\n")
    for backend in ("reference", ""):
        done = run_with(backend, REFUSED_BY_CPU)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_environment_cannot_name_what_there_is_not():
    done = run_with("tpu", "import qlora_kernels")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert (
        "QLORA_BACKEND: its value should be one of cpu, triton, cuda, reference, was 'tpu'" in line
    )
