"""`qlora doctor env`: what runs here, what does not and why, and whether it computes right."""

from dataclasses import asdict, dataclass

import torch

import qlora_kernels as qk
from qlora.provenance import machine, versions
from qlora_kernels.testing.cases import DORA_CASES, LINEAR_CASES, LinearCase, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule
from qlora_kernels.testing.linear_formula import formula, in_float64, on_device, op, outputs

PACKAGES = (
    "qlora_kernels", "torch", "numpy", "safetensors", "triton", "transformers", "accelerate",
    "peft", "trl", "bitsandbytes", "gguf", "matplotlib", "tensorboard", "rich", "pyyaml",
)  # fmt: skip
NEEDS_GPU = ("triton", "cuda")
CASES: tuple[LinearCase, ...] = (*LINEAR_CASES, *DORA_CASES)


@dataclass(frozen=True)
class BackendReport:
    """A backend: why it cannot run here, or what its self-check said. passed: None unchecked."""

    name: str
    refusal: str | None
    passed: bool | None = None
    cases: int = 0
    outputs: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Environment:
    """Machine, versions of packages (absent ones left out), backends in order of preference."""

    machine: dict[str, object]
    versions: dict[str, str]
    backends: tuple[BackendReport, ...]

    @property
    def healthy(self) -> bool:
        """Whether every backend that runs computes right."""
        return all(report.passed is not False for report in self.backends)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "healthy": self.healthy}


def examine_environment() -> Environment:
    """Versions, backends with reasons, and the shared cases on each backend that can run."""
    reports = tuple(
        self_check(name) if refusal is None else BackendReport(name, refusal)
        for name, refusal in qk.backends().items()
    )
    return Environment(machine(), versions(PACKAGES), reports)


def self_check(name: str) -> BackendReport:
    """The one list of cases by the one error rule, outputs and gradients in float32, on a backend.

    A case that the backend refuses, or one that no kernel of it runs, counts as failed.
    """
    rule, count = ErrorRule(torch.float32), 0
    device = "cuda" if name in NEEDS_GPU else "cpu"
    try:
        for case in CASES:
            problem = linear_problem(case, torch.float32)
            truth, plain = outputs(formula, in_float64(problem)), outputs(formula, problem)
            with qk.use_backend(name):
                ours = outputs(op, on_device(problem, device))
            for output, value in truth.items():
                rule.add(str(case), output, ours[output].cpu(), plain[output], value)
                count += 1
        rule.check()
    except (AssertionError, qk.InputError, RuntimeError) as error:
        return BackendReport(name, None, False, len(CASES), count, str(error))
    return BackendReport(name, None, True, len(CASES), count)


def describe_environment(found: Environment) -> str:
    """Lines to read: machine, packages, backends."""
    absent = [name for name in PACKAGES if name not in found.versions]
    lines = [
        f"machine   {', '.join(f'{key} {value}' for key, value in found.machine.items())}",
        f"versions  {', '.join(f'{key} {value}' for key, value in found.versions.items())}",
    ]
    lines += [f"absent    {', '.join(absent)}"] if absent else []
    lines += ["backends, in order of preference; each that runs here was checked against float64"]
    lines += [f"  {_describe(report)}" for report in found.backends]
    return "\n".join(lines)


def _describe(report: BackendReport) -> str:
    if report.refusal is not None:
        return f"{report.name:10} cannot run here: {report.refusal}"
    if report.passed:
        return f"{report.name:10} right: {report.outputs} outputs of {report.cases} cases"
    first = report.failure.splitlines()[0]
    return f"{report.name:10} WRONG, do not train with it: {first}"
