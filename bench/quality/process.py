"""Run as a program: one run, its result as one JSON object.

    python -m bench.quality.process MODEL WORDNET NAME SEED

Nothing is left behind: no adapter, no checkpoint.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import qlora_kernels as qk
from bench.merging.tasks import plain_text, write_rows
from bench.planner.process import resident, return_memory
from bench.quality.exam import Examiner, without_end
from bench.quality.plan import CONFIGURATIONS, SHOTS, SIZES, Configuration, Run
from bench.quality.tasks import TEST, few_shot, held_out_lines, make_task
from qlora.models import load_tokenizer, load_tuned
from qlora.train.action import Diverged
from qlora.train.prepare import prepare
from qlora.train.resume import find_place
from qlora.train.step import take_step

EVALUATE_EVERY = 10  # steps, on the validation rows
FEW_SHOT_ROWS = 60
FEW_SHOT_LENGTH = 352  # of SHOTS rows and one more
STEPS_TO_PEAK = 3  # the optimizer's states are there, and no evaluation was yet
MIB = 2**20


def run(one: Run, model: Path, wordnet: Path) -> dict[str, Any]:
    """Of whatever kind."""
    kinds = {"trained": trained, "base": base, "few-shot": shown}
    with tempfile.TemporaryDirectory() as name:
        started = time.process_time()
        try:
            result = kinds[one.configuration.kind](one, (model, wordnet), Path(name))
        except Diverged as failure:  # a result, too: the same again would give the same
            result = {"diverged": str(failure)}
        return {**result, "cpu_seconds": time.process_time() - started}


def num_weights(model: Path) -> int:
    """Of the dense model."""
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return sum(parameter.numel() for parameter in made.parameters())


def trained(one: Run, sources: tuple[Path, Path], folder: Path) -> dict[str, Any]:
    """Train; then the test and English."""
    configuration = one.configuration
    task = make_task(configuration.task, one.seed, configuration.rows)
    files = task.write(folder)
    settings = configuration.train_settings(
        sources[0], files["train"], folder / "training", one.seed
    )
    import_module("qlora.train.methods.virtual_tokens")  # loads peft, which is no one's memory
    return_memory()
    before = resident("VmRSS:")
    training, state, _ = prepare(settings, find_place(settings))
    examiner = Examiner(load_tokenizer(sources[0]), settings.sequence_length)
    exams = {part: examiner.read(files[part]) for part in ("validation", "test")}
    return_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    curve, losses = [], []
    while state.step < training.steps:
        losses.append(take_step(training, state).loss)
        if state.step == min(STEPS_TO_PEAK, training.steps):
            peak = resident("VmHWM:")
        if state.step % EVALUATE_EVERY == 0:
            score = examiner.score(training.model, exams["validation"])
            curve.append((state.step, score.loss))
    score = examiner.score(training.model, exams["test"])
    return {
        **asdict(score),
        "english": examiner.english(training.model, plain_text(sources[1]), folder),
        "validation": curve,
        "training": losses,
        "trained": sum(p.numel() for p in training.parameters.values()),
        "weights": num_weights(sources[0]),
        "peak_mib": (peak - before) / MIB,
        "test_rows": len(exams["test"]),
    }


def base(one: Run, sources: tuple[Path, Path], folder: Path) -> dict[str, Any]:
    """Nothing is trained: English, the next line of Python, intents by examples in the prompt.

    The seed draws sentences, lines and examples: an interval over seeds is one over texts.
    """
    made, tokenizer = _base_model(one.configuration, sources[0])
    lines = write_rows(held_out_lines(one.seed, TEST["python"]), folder / "lines.jsonl")
    examiner = Examiner(tokenizer, SIZES["python"]["sequence_length"])
    read = [without_end(example) for example in examiner.read(lines)]
    score = examiner.score(made, read)
    found = _shown(made, tokenizer, one.seed, folder)
    return {
        "english": examiner.english(made, plain_text(sources[1], one.seed), folder),
        "python": score.loss,
        "python_right": score.right,
        "intents": found["loss"],
        "intents_right": found["right"],
    }


def shown(one: Run, sources: tuple[Path, Path], folder: Path) -> dict[str, Any]:
    """Examples in the prompt of the model in 16 bits."""
    made, tokenizer = _base_model(one.configuration, sources[0], "none")
    examiner = Examiner(tokenizer, FEW_SHOT_LENGTH)
    return {
        **_shown(made, tokenizer, one.seed, folder),
        "english": examiner.english(made, plain_text(sources[1]), folder),
        "trained": 0,
    }


def _shown(model: Any, tokenizer: Any, seed: int, folder: Path) -> dict[str, Any]:
    task = make_task("intents", seed, SIZES["intents"]["num_train"])
    examiner = Examiner(tokenizer, FEW_SHOT_LENGTH)
    rows = few_shot(task, seed, SHOTS, FEW_SHOT_ROWS)
    examples = [
        without_end(example)
        for example in examiner.read(write_rows(rows, folder / "few-shot.jsonl"))
    ]
    return {
        **asdict(examiner.score(model, examples)),
        "prompt_tokens": sum(map(len, examples)) / len(examples),
        "test_rows": len(examples),
    }


def _base_model(configuration: Configuration, model: Path, format: str | None = None) -> Any:
    return load_tuned(model, None, qk.QLoRAConfig(format=format or configuration.format))


def main(model: str, wordnet: str, name: str, seed: str) -> None:
    torch.manual_seed(int(seed))
    one = Run(CONFIGURATIONS[name], int(seed))
    print(json.dumps(run(one, Path(model), Path(wordnet))))


if __name__ == "__main__":
    main(*sys.argv[1:])
