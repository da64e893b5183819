"""Why CUDA kernels do not run here, in one sentence: the driver, the GPU, what was compiled."""

from types import SimpleNamespace

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.gpu import cuda_module

OLD_DRIVER = (
    "the driver is for CUDA 12.4, older than the CUDA 13.0 that _cuda was built with "
    "(a newer driver, or a build by an older nvcc, runs it)"
)


def refusal(
    monkeypatch: pytest.MonkeyPatch,
    driver: int = 13000,
    gpu: tuple[int, int] | None = (9, 0),
    built: tuple[int, ...] = (800, 890, 900),
) -> str | None:
    """What a machine with this driver and GPU is told, by a module that nvcc 13.0 compiled."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: gpu)
    module = SimpleNamespace(
        driver_version=lambda: driver, runtime_version=lambda: 13000, architectures=lambda: built
    )
    return cuda_module.gpu_refusal(module)


@pytest.mark.parametrize("driver", [13000, 13020, 14000])
def test_a_driver_of_the_same_major_version_or_a_later_one_runs_it(
    monkeypatch: pytest.MonkeyPatch, driver: int
):
    assert refusal(monkeypatch, driver) is None


@pytest.mark.parametrize("gpu", [None, (9, 0)], ids=["unseen", "seen"])
def test_an_older_driver_is_named_even_where_torch_sees_no_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: tuple[int, int] | None
):
    assert refusal(monkeypatch, 12040, gpu) == OLD_DRIVER


def test_no_gpu(monkeypatch: pytest.MonkeyPatch):
    assert refusal(monkeypatch, 0) == "there is no NVIDIA GPU"
    assert refusal(monkeypatch, 13000, None) == "there is no NVIDIA GPU"


def test_too_old_a_gpu(monkeypatch: pytest.MonkeyPatch):
    assert refusal(monkeypatch, gpu=(7, 5)) == (
        "the GPU's compute capability is (7, 5), below (8, 0)"
    )


@pytest.mark.parametrize(
    "gpu, built, runs",
    [
        ((8, 6), (800, 900), True),  # sm_80's code runs on its generation
        ((8, 0), (890, 900), False),  # and not the other way round
        ((10, 0), (800, 900), True),  # the last one's PTX
        ((9, 0), (800, 890), True),
        ((9, 0), (1000,), False),
    ],
    ids=str,
)
def test_what_was_compiled(
    monkeypatch: pytest.MonkeyPatch, gpu: tuple[int, int], built: tuple[int, ...], runs: bool
):
    found = refusal(monkeypatch, gpu=gpu, built=built)
    names = ", ".join(f"sm_{number // 10}" for number in built)
    own = "".join(map(str, gpu))
    told = f"_cuda was built for {names}, the GPU is sm_{own} (QLORA_CUDA_ARCH={own} builds it)"
    assert found == (None if runs else told)


def test_a_forced_backend_says_it(monkeypatch: pytest.MonkeyPatch):
    loaded = cuda_module.Loaded(None, "cuda", OLD_DRIVER)
    monkeypatch.setattr(cuda_module, "loaded", lambda: loaded)
    assert qk.backends()["cuda"] == OLD_DRIVER
    with qk.use_backend("cuda"), pytest.raises(qk.InputError, match=r"CUDA 12\.4, older than"):
        qk.quantize(torch.ones(64))
