"""Where scripts look for bitsandbytes' names, and that bitsandbytes is not needed for them."""

import importlib
import subprocess
import sys

import bitsandbytes
import pytest

import qlora_kernels.compat.bitsandbytes as bnb

PATHS = """
    functional.QuantState functional.quantize_4bit functional.dequantize_nf4 matmul_4bit
    nn.Linear4bit nn.modules.LinearNF4 nn.modules.Params4bit nn.parametrize.replace_parameter_4bit
    optim.AdamW8bit optim.adamw.PagedAdamW8bit optim.adam.Adam optim.optimizer.GlobalOptimManager
    modules.Linear4bit adam.Adam8bit
    autograd._functions.matmul_4bit autograd._functions.MatmulLtState functional.igemm MatmulLtState
"""


@pytest.mark.parametrize("path", PATHS.split())
def test_a_path_is_theirs(path: str):
    """By attribute, and by import where it is a module."""
    module, _, name = path.rpartition(".")
    for package in (bnb, bitsandbytes):
        found = package
        for part in path.split("."):
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
        assert found.__name__ == name
        if module in ("functional", "nn", "nn.modules", "optim", "optim.adamw", "optim.optimizer"):
            imported = importlib.import_module(f"{package.__name__}.{module}")
            assert getattr(imported, name) is found


@pytest.mark.parametrize("module", ["nn", "optim"])
def test_every_public_class_has_its_name_here(module: str):
    theirs = vars(importlib.import_module(f"bitsandbytes.{module}"))
    classes = {name for name, value in theirs.items() if isinstance(value, type)}
    assert classes - {"PytorchLARS"} <= vars(getattr(bnb, module)).keys()


def test_importing_needs_no_bitsandbytes_and_is_quiet():
    program = """
import sys
sys.modules["bitsandbytes"] = sys.modules["transformers"] = None
import qlora_kernels.compat.bitsandbytes as bnb
import qlora_kernels.compat.bitsandbytes.functional as functional
from qlora_kernels.compat.bitsandbytes.nn import parametrize
layer = bnb.nn.LinearNF4(64, 8).to("cpu")
layer(functional.dequantize_4bit(layer.weight, layer.weight.quant_state))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_it_says_of_itself():
    assert bnb.__version__.split(".")[:2] == bitsandbytes.__version__.split(".")[:2]
    assert bnb.features == bitsandbytes.features
    assert bnb.supported_torch_devices <= bitsandbytes.supported_torch_devices
