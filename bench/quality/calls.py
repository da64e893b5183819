"""What a call costs: each member of the frontier beside the untrained model in 16 bits.

A call is one forward over a question and its answer, as in the exams: no token is generated. An
adapter that has learnt nothing takes as long as one that has, so none is trained; all are loaded at
once and take turns.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.merging.tasks import write_rows
from bench.quality.exam import Examiner
from bench.quality.frontier import BASE, MEMBERS, REFERENCE
from bench.quality.plan import CONFIGURATIONS, SHOTS, SIZES
from bench.quality.process import FEW_SHOT_LENGTH
from bench.quality.tasks import few_shot, make_task
from bench.turns import interleaved
from qlora.data import Example
from qlora.data.encode import pad_token
from qlora.demo.experiment import PACKAGES
from qlora.evaluation import evaluate
from qlora.models import load_model
from qlora.provenance import provenance
from qlora.train.methods import make_method

ROUNDS = 41
SEED = 0
COMMAND = "python -m bench quality --calls"


def measured(model: Path) -> dict[str, Any]:
    """seconds: of every member and the base, round by round."""
    with tempfile.TemporaryDirectory() as name:
        seconds = interleaved(_calls(model, Path(name)), ROUNDS)
    return {
        "command": COMMAND,
        **provenance(PACKAGES),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
    }


def _calls(source: Path, folder: Path) -> dict[str, Callable[[], object]]:
    base, tokenizer = load_model(source)
    question, behind_examples = _questions(tokenizer, folder)
    pad = pad_token(tokenizer)
    calls = {
        BASE: partial(evaluate, base, [[question]], pad),
        REFERENCE: partial(evaluate, base, [[behind_examples]], pad),
    }
    for name in MEMBERS:
        if name != REFERENCE:
            model, _ = load_model(source)
            settings = CONFIGURATIONS[name].train_settings(source, folder, folder, SEED)
            make_method(model, tokenizer, settings)
            calls[name] = partial(evaluate, model, [[question]], pad)
    return calls


def _questions(tokenizer: Any, folder: Path) -> tuple[Example, Example]:
    """One as it is, and one behind examples."""
    task = make_task("intents", SEED, SIZES["intents"]["num_train"])
    rows = (task.test[0], few_shot(task, SEED, SHOTS, 1)[0])
    examiner = Examiner(tokenizer, FEW_SHOT_LENGTH)
    plain, shown = examiner.read(write_rows(rows, folder / "questions.jsonl"))
    return plain, shown
