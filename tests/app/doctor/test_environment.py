"""`qlora doctor env`: reasons for what does not run, and a check that can fail for what does."""

import json
import subprocess
import sys

import pytest

from qlora.cli import main
from qlora.doctor.environment import BackendReport, Environment, describe_environment, self_check
from qlora_kernels.ops.qlora_linear import reference
from qlora_kernels.testing import linear_formula

WITHOUT_EXTRAS = """
import sys
for name in ("transformers", "accelerate", "matplotlib", "rich", "tensorboard", "yaml", "gguf"):
    sys.modules[name] = None
from qlora.cli import main
sys.exit(main(["doctor", "env"]))
"""


def test_every_backend_is_told_with_its_check_or_its_reason(capsys):
    assert main(["doctor", "env", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = {report["name"]: report for report in record["backends"]}
    assert {"cpu", "reference"} <= found.keys()
    for report in found.values():
        assert report["refusal"] or (report["passed"] and report["outputs"] > 100)
    assert record["healthy"] and "torch" in record["versions"]


def test_a_plain_install_suffices():
    result = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "reference  right" in result.stdout


def test_a_wrong_kernel_is_found(monkeypatch):
    right = linear_formula.qlora_linear

    def wrong(*arguments, **named):
        return right(*arguments, **named) * 1.005

    monkeypatch.setattr(linear_formula, "qlora_linear", wrong)
    report = self_check("reference")
    assert report.passed is False and "rms" in report.failure
    told = describe_environment(Environment({}, {}, (report,)))
    assert "WRONG, do not train with it" in told


def test_a_refusal_is_told_with_its_reason():
    told = describe_environment(Environment({}, {}, (BackendReport("triton", "no GPU here"),)))
    assert "cannot run here: no GPU here" in told
    assert reference.BACKEND == "reference"


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_backend_that_is_right_passes(name: str):
    assert self_check(name).passed
