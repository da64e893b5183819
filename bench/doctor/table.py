"""Every experiment: the healthy ones, the faults with the healthy twin of each, HF Trainer's."""

from dataclasses import replace

from bench.doctor.experiment import Experiment
from bench.doctor.injections import drift, freeze_all_but_last, freeze_factors, mask_answers, poison
from bench.doctor.tasks import cipher, commands, facts, foreign_cipher, verdicts

RATE = 3e-3
ATTENTION = ("q_proj", "v_proj")  # what peft adapts in a Llama that is not told
LONGER = {"steps": 240, "evaluate_every": 24, "save_every": 240}

HEALTHY = (
    Experiment("cipher", "a permutation of words", cipher, 1200, settings=LONGER),
    Experiment("facts", "facts in new words", facts, 144, settings=LONGER),
    Experiment("verdicts", "a rule behind noisy labels", verdicts, 2000),
    Experiment("commands", "Home Assistant's intents", commands, 2000),
    Experiment(
        "careful",
        "300 noisy rows, with dropout, decay and early stopping",
        verdicts,
        300,
        settings={
            "dropout": 0.1,
            "weight_decay": 0.1,
            "learning_rate": 2e-3,
            "steps": 100,
            "evaluate_every": 10,
            "save_every": 10,
            "patience": 3,
        },
    ),
)

FAULTS = (
    Experiment(
        "rank-1",
        "rank 1 for a permutation of words",
        cipher,
        1200,
        "capacity-too-low",
        "cipher",
        {**LONGER, "rank": 1, "alpha": 2.0},
    ),
    Experiment(
        "attention-only",
        "facts, adapters on q and v of attention only",
        facts,
        144,
        "wrong-layers",
        "facts",
        {**LONGER, "targets": ATTENTION},
    ),
    Experiment(
        "memorized",
        "200 noisy rows, unregularised, 24 epochs",
        verdicts,
        200,
        "overfitting",
        "verdicts",
        {"steps": 300, "evaluate_every": 30, "save_every": 300, "weight_decay": 0.0},
    ),
    Experiment(
        "drifted",
        "validation of another time",
        verdicts,
        2000,
        "drifted-data",
        "verdicts",
        change=drift,
    ),
    Experiment(
        "rate-x-30",
        "30 times the learning rate",
        cipher,
        1200,
        "learning-rate-too-high",
        "cipher",
        {**LONGER, "learning_rate": 30 * RATE},
    ),
    Experiment(
        "rate-x-0.01",
        "a hundredth of the learning rate",
        facts,
        144,
        "learning-rate-too-low",
        "facts",
        {**LONGER, "learning_rate": 0.01 * RATE},
    ),
    Experiment(
        "masked",
        "answers inside the masked prompt",
        commands,
        2000,
        "masked-labels",
        "commands",
        change=mask_answers,
    ),
    Experiment(
        "frozen-factors",
        "B left out of the optimizer",
        facts,
        144,
        "frozen-adapters",
        "facts",
        LONGER,
        injection=freeze_factors,
    ),
    Experiment(
        "frozen-layers",
        "all adapters frozen but the last layer's",
        cipher,
        1200,
        "frozen-adapters",
        "cipher",
        LONGER,
        injection=freeze_all_but_last,
    ),
    Experiment(
        "poisoned",
        "one batch of garbage, not clipped",
        verdicts,
        2400,
        "poisoned-batch",
        "verdicts",
        {"max_norm": 0.0},
        change=poison,
    ),
    Experiment(
        "foreign",
        "words of a script that the base never read",
        foreign_cipher,
        1200,
        "unknown-script",
        "cipher",
        LONGER,
    ),
)

_NAMED = {experiment.name: experiment for experiment in (*HEALTHY, *FAULTS)}
HUGGING_FACE = tuple(
    replace(_NAMED[name], name=f"hf-{name}", trainer="hugging-face")
    for name in ("verdicts", "memorized", "rate-x-30", "poisoned")
)
EXPERIMENTS = {experiment.name: experiment for experiment in (*HEALTHY, *FAULTS, *HUGGING_FACE)}
