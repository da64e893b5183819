"""Curves for doctor.png to show beside a run: python -m bench.doctor.references runs/doctor SEED"""

import json
import sys
from pathlib import Path

from bench.doctor.table import FAULTS, HEALTHY
from qlora.doctor.readers import read_curves
from qlora.doctor.references import FILE, to_record
from qlora_kernels.files import write_text

HEALTHY_ONE = HEALTHY[0]  # the twin of most faults


def reference_curves(runs: Path, seed: int) -> dict[str, object]:
    """`healthy`, and the first experiment of each cause, as they were recorded."""
    chosen = {"healthy": HEALTHY_ONE}
    for experiment in FAULTS:
        chosen.setdefault(str(experiment.cause), experiment)
    return {
        name: to_record(
            read_curves(runs / f"{experiment.name}-seed-{seed}" / "run"),
            f"benchmark of faults: {experiment.name}, seed {seed}",
        )
        for name, experiment in chosen.items()
    }


if __name__ == "__main__":
    records = reference_curves(Path(sys.argv[1]), int(sys.argv[2]))
    lines = [f"{json.dumps(name)}: {json.dumps(record)}" for name, record in records.items()]
    write_text(FILE, "{\n" + ",\n".join(lines) + "\n}\n")
