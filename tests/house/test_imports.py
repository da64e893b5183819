"""Importing prints nothing, touches no GPU and brings no training framework."""

import subprocess
import sys

import pytest

FRAMEWORKS = ("transformers", "peft", "accelerate", "bitsandbytes", "rich", "matplotlib")
QUIET = f"""
import sys
import {{module}}
loaded = [name for name in {FRAMEWORKS} if name in sys.modules]
assert not loaded, loaded
torch = sys.modules.get("torch")
assert torch is None or not torch.cuda.is_initialized()
"""


@pytest.mark.parametrize("module", ["qlora_kernels", "qlora", "qlora.cli"])
def test_importing_is_quiet(module: str):
    command = [sys.executable, "-W", "error", "-c", QUIET.format(module=module)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
