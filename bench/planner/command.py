"""`python -m bench planner`: predicted against measured peaks, each in a process of its own."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.planner.cases import Case, all_cases
from qlora.demo.experiment import Experiment
from qlora.demo.fetch import fetch_model
from qlora.plan.config_file import architecture_of
from qlora.plan.memory import Forecast
from qlora.plan.run import forecast_of
from qlora.provenance import provenance
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text

HELP = "peak memory that `qlora plan` predicts against what training steps take, on a CPU"
RECORD = Path("bench/results/planner/record.json")
NEAR = 0.05  # of the measured peak; the project's law for the planner
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="*", metavar="SHAPE", help="shapes, or demo; default all")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")


def run(arguments: argparse.Namespace) -> int:
    chosen = [case for case in all_cases() if not arguments.only or case.shape in arguments.only]
    if not chosen:
        names = sorted({case.shape for case in all_cases()})
        raise InputError(f"planner: --only should name some of {names}, was {arguments.only}")
    rows = []
    for case in chosen:
        rows.append(compared(case))
        row = rows[-1]
        print(
            f"{case.name:30} predicted {row['predicted_bytes'] / MIB:7.1f} MiB,"
            f" measured {row['measured_bytes'] / MIB:7.1f}  {row['off']:+.1%}",
            flush=True,
        )
    if arguments.record:
        origin = provenance(["qlora_kernels", "torch", "transformers"])
        write_text(RECORD, json.dumps({**origin, "rows": rows}, indent=2) + "\n")
    return int(any(abs(row["off"]) > NEAR for row in rows))


def compared(case: Case) -> dict[str, object]:
    """The planner's sum and the peak."""
    model = fetch_model(print) if case.shape == "demo" else None
    forecast = planned(case, model)
    measured = peak(case, model)
    return {
        **asdict(case),
        "predicted_bytes": forecast.total,
        "measured_bytes": measured,
        "off": forecast.total / measured - 1,
        "components": forecast.components,
    }


def planned(case: Case, model: Path | None) -> Forecast:
    """Without running anything."""
    if model is None:
        return Forecast(
            architecture_of(case.config, Path("config.json")), case.settings, case.method
        )
    config = json.loads((model / "config.json").read_text())
    settings = Experiment(model, Path("runs/demo")).settings
    return forecast_of(settings, config, dtype="float32", device="cpu")


def peak(case: Case, model: Path | None) -> int:
    """Bytes of the process above its base."""
    words: Sequence[str] = [json.dumps(asdict(case)), *([str(model)] if model else [])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "bench.planner.process", *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise InputError(
            f"planner: {case.name} should run, did not: {result.stderr.strip()[-500:]}"
        )
    return int(result.stdout)
