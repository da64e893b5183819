"""Run one trial: train, examine, diagnose. What is done is kept, so nothing is done twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.doctor.experiment import RECIPE, Trial
from bench.doctor.hugging_face import train_with_hugging_face
from qlora.evaluate import EvaluateSettings, evaluate_file
from qlora.provenance import commit
from qlora.storage import Format
from qlora.train.action import Diverged
from qlora.train.checkpoint import latest
from qlora.train.metrics import read_rows
from qlora.train.rows import EvaluationRow, StepRow
from qlora.train.run import RunFiles
from qlora.train.trainer import train
from qlora_kernels.files import write_text

Outcome = dict[str, Any]
VALIDATION = ("validation_step", "validation")
POINTS = 20  # of a recorded training curve


def trained(trial: Trial) -> Outcome | None:
    """How the run went and what it can do; None where it was interrupted."""
    done = trial.folder / "trained.json"
    if not done.exists():
        if (outcome := _train(trial)) is None:
            return None
        write_text(done, json.dumps(outcome) + "\n")
    found = json.loads(done.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def _train(trial: Trial) -> Outcome | None:
    trial.write_data()
    files = RunFiles(trial.folder / "run")
    if trial.experiment.trainer == "hugging-face":
        losses = train_with_hugging_face(trial)
        training = training_curve(losses["training_step"], losses["training"])
        return {
            **identity(trial),
            "ending": "finished",
            "curve": {**training, **{name: losses[name] for name in VALIDATION}},
            "exam": examine(trial, files, "none"),
        }
    try:
        with trial.experiment.injection():
            result = train(trial.settings)
        ending = result.ending
    except Diverged as failure:
        ending = f"diverged at step {failure.step}"
    if ending == "interrupted":
        return None
    return {
        **identity(trial),
        "ending": ending,
        "curve": curve(files.metrics),
        "exam": examine(trial, files),
    }


def identity(trial: Trial) -> Outcome:
    """What was run."""
    experiment = trial.experiment
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "cause": experiment.cause,
        "twin": experiment.twin,
        "trainer": experiment.trainer,
        "task": experiment.task.__name__,
        "rows": experiment.num_train,
        "seed": trial.seed,
        "commit": commit(),
        "settings": {**RECIPE, **experiment.settings},
    }


def examine(trial: Trial, files: RunFiles, format: Format = "nf4") -> dict[str, float]:
    """Loss and exactly right answers of what the run ended with, on rows it never saw."""
    checkpoint = latest(files.checkpoints)
    adapter = files.adapter if checkpoint is None else checkpoint / "adapter"
    result = evaluate_file(
        EvaluateSettings(
            trial.base,
            trial.folder / "data" / "exam.jsonl",
            adapter,
            format,
            sequence_length=trial.settings.sequence_length,
            packing=False,
            batch_size=32,
        )
    )["adapter"]
    return {"loss": result.loss, "accuracy": result.accuracy or 0.0}


def curve(metrics: Path) -> dict[str, list[float]]:
    """Steps, mean training losses of POINTS stretches of the run, and the validations."""
    rows = read_rows(metrics)
    steps = [row for row in rows if isinstance(row, StepRow)]
    evaluations = [row for row in rows if isinstance(row, EvaluationRow)]
    return {
        **training_curve([row.step for row in steps], [row.loss for row in steps]),
        "validation_step": [row.step for row in evaluations],
        "validation": [row.loss for row in evaluations],
    }


def training_curve(steps: Sequence[int], losses: Sequence[float]) -> dict[str, list[float]]:
    """The last step of each stretch and the mean loss in it."""
    size = max(1, len(steps) // POINTS)
    starts = range(0, len(steps), size)
    stretches = [losses[start : start + size] for start in starts]
    return {
        "step": [steps[min(start + size, len(steps)) - 1] for start in starts],
        "loss": [sum(stretch) / len(stretch) for stretch in stretches],
    }
