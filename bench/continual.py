"""Learning one thing after another, with and without replay: what of the first is left.

Task one answers sun or moon with day or night, task two king or slave with gold or rags, whatever
stands around them. An adapter of the tiny Llama learns the first; a second run goes on from it with
the second. Both are judged on sentences that neither has seen.
"""

import argparse
import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qlora.evaluate import EvaluateSettings, evaluate_slices
from qlora.provenance import provenance
from qlora.slices import Comparison
from qlora.train.from_adapter import settings_of
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train
from qlora_kernels.files import write_text

HELP = "two tasks one after the other on the tiny fixture, with and without --replay"
MODEL = Path("tests/fixtures/tiny_shakespeare_llama")
PACKAGES = ("qlora_kernels", "torch", "transformers")
HELD_OUT = 4  # one sentence of so many
ANSWERS = {"old": {"sun": "day", "moon": "night"}, "new": {"king": "gold", "slave": "rags"}}
BEFORE = ("fair", "bright", "old", "sad", "proud", "sweet", "false", "poor", "gentle", "cruel")
AFTER = ("sleep", "rise", "weep", "sing", "die", "speak", "love", "fall", "stand", "come")
COMMON: dict[str, Any] = {
    "sequence_length": 64,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "lora_plus_ratio": 1.0,
    "dropout": 0.0,
    "validation_split": 0.0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=120, help="of each of the two runs")
    parser.add_argument("--share", type=float, default=0.2, help="of old examples in replay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where data and runs go; default: not kept")
    parser.add_argument("--output", type=Path, help="file for the record, as JSON")


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as passing:
        folder = arguments.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        found = study(folder, arguments.steps, arguments.share, arguments.seed)
    how = {name: getattr(arguments, name) for name in ("steps", "share", "seed")}
    record = {**provenance(PACKAGES), **how, "runs": _as_values(found)}
    print(table(record["runs"]))
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(record, indent=2) + "\n")
    return 0


def table(runs: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Loss and exact matches of each adapter on both tasks, as docs/continual.md has it."""
    lines = [
        "| adapter | old: loss | old: exact | new: loss | new: exact |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, slices in runs.items():
        cells = [
            f"{slices[task]['adapter']['loss']:.2f} | {slices[task]['adapter']['accuracy']:.0%}"
            for task in ANSWERS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def study(folder: Path, steps: int, share: float, seed: int) -> dict[str, dict[str, Comparison]]:
    """Run name -> slice -> base and that run's adapter."""
    data = write_tasks(folder, seed)
    common = {"model": MODEL, "steps": steps, "seed": seed, **COMMON}
    first = train(TrainSettings(data=data["old-train"], output=folder / "first", **common))
    assert first.adapter is not None
    adapters = {"after the first task": first.adapter}
    for name, replay in (
        ("after the second", None),
        (f"after the second, with `--replay` of {share:g}", f"{data['old-train']}:{share}"),
    ):
        settings = TrainSettings(
            **common,
            **settings_of(first.adapter),
            data=data["new-train"],
            output=folder / ("replayed" if replay else "second"),
            from_adapter=first.adapter,
            replay=replay,
        )
        adapter = train(settings).adapter
        assert adapter is not None
        adapters[name] = adapter
    tests = {task: data[f"{task}-test"] for task in ANSWERS}
    how = {"slice": tests, "sequence_length": COMMON["sequence_length"]}
    return {
        name: evaluate_slices(EvaluateSettings(MODEL, adapter=adapter, **how))
        for name, adapter in adapters.items()
    }


def write_tasks(folder: Path, seed: int) -> dict[str, Path]:
    """`old-train`, `old-test`, `new-train`, `new-test`: the same sentences are held out of both."""
    frames = [(before, after) for before in BEFORE for after in AFTER]
    random.Random(seed).shuffle(frames)
    held = len(frames) // HELD_OUT
    paths = {}
    for part, members in (("test", frames[:held]), ("train", frames[held:])):
        for task, answers in ANSWERS.items():
            lines = [
                json.dumps({"prompt": f"The {x} {noun} doth {y}.", "completion": f" {answer}"})
                for x, y in members
                for noun, answer in answers.items()
            ]
            paths[f"{task}-{part}"] = folder / f"{task}-{part}.jsonl"
            paths[f"{task}-{part}"].write_text("\n".join(lines) + "\n")
    return paths


def _as_values(found: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    return {name: {s: asdict(c) for s, c in slices.items()} for name, slices in found.items()}
