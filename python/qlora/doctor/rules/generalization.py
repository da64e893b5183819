"""Causes of a good training loss that does not carry over to other text."""

from dataclasses import replace

from qlora.doctor.rules.rule import Condition, Rule, Symptom
from qlora.doctor.rules.unstable import CLIMBED

OVERFITTING = Rule(
    "overfitting",
    "The model memorises its training data",
    -2.5,
    (
        Condition(
            "gap_learned", ">", 0.2, 2.5, 3.0,
            says="training made a gap: {detail}",
            denies="training made no gap between its data and validation ({value:+.2f} nats)",
            reason="a fifth of a nat beyond the base's own gap, interval included: 20 % in"
            " probability of every token",
        ),
        Condition(
            "validation_rise", ">", 0.05, 2.5, 0.5,
            says="{detail}, while training went on falling",
            denies="validation never rose again",
            reason="a twentieth of a nat is more than validations scatter",
        ),
        Condition(
            "validation_rise", ">", 0.3, 1.0, 0.0,
            says="that is far more than validations scatter ({value:.2f} nats)",
            denies="it did not rise by much ({value:.2f} nats)",
            reason="a third of a nat: nothing but training further explains it",
        ),
        replace(CLIMBED, weight=-1.5, against=0.0),
        Condition(
            "curve_gap", ">", 0.3, 1.0, 0.5,
            says="{detail}",
            denies="validation and training end {value:+.2f} nats apart",
            reason="dropout and a moving average blur a third of a nat at most",
        ),
        Condition(
            "calibration_error_validation", ">", 0.1, 0.5, 0.5,
            says="it is surer than it is right on validation, by {value:.0%}",
            denies="its confidence on validation is right to within {value:.0%}",
            reason="a tenth: pretrained models are within a few percent on text they know",
        ),
        Condition(
            "epochs", ">", 3.5, 0.5, 0.25,
            says="it saw every example {value:.0f} times",
            denies="it saw every example {value:.1f} times",
            reason="3 passes are the recipe's; adapters memorise from the fourth on",
        ),
    ),
    ("drifted-data", "capacity-too-low"),
    (
        "--epochs {fewer_epochs:.0f} --dropout 0.1 --weight-decay 0.05",
        "--dropout 0.1 --weight-decay 0.05 --patience 1",
    ),
    "Train on half of the data for as many steps: the gap should grow; with twice the data"
    " it should shrink.",
    (
        "The gap stays: --rank half of it, more --dropout (up to 0.15).",
        "Still: more data; below 1,000 examples augmentation, synthetic examples or few-shot"
        " prompts may beat tuning.",
        "More data does not help: validation differs from training; judge drift.",
    ),
)  # fmt: skip

DRIFTED = Rule(
    "drifted-data",
    "Validation (or recent data) is not what the model was trained on",
    -2.5,
    (
        Condition(
            "drift_validation", ">", 0.1, 3.0, 2.5,
            says="already the untrained base finds validation harder: {detail}",
            denies="the base finds validation as easy as training ({value:+.2f} nats)",
            reason="a tenth of a nat, interval included: splits of one source differ by less",
        ),
        Condition(
            "drift_recent", ">", 0.1, 2.0, 0.5,
            says="already the untrained base finds the recent file harder: {detail}",
            denies="the base finds the recent file as easy as training ({value:+.2f} nats)",
            reason="a tenth of a nat, interval included: splits of one source differ by less",
        ),
        Condition(
            "gap_explained", ">", 0.5, 1.0, 1.5,
            says="{value:.0%} of the gap was there before training",
            denies="only {value:.0%} of the gap was there before training",
            reason="half: beyond it, the data explains the gap better than training does",
        ),
    ),
    ("overfitting", "unknown-script"),
    ("--replay old.jsonl:0.2, with training data from where the model will be used",),
    "Split training data at random for validation: the gap should vanish; evaluate with --slice"
    " old=... --slice new=...: only the new slice should be bad.",
    (
        "New examples are few: --from-adapter ADAPTER --replay old.jsonl:0.2, to keep the old.",
        "The new gets better and the old worse: raise the share of replay, then --rank.",
        "Neither gets better: the new task needs another base; judge capacity and script.",
    ),
)  # fmt: skip

FORGETTING = Rule(
    "forgetting",
    "The model lost what the base could do",
    -4.0,
    (
        Condition(
            "probe_given", ">", 0.5, 1.5, 4.0,
            says="the text given with --probe is to stay as good as it was",
            denies="nobody said what else the model should still do (--probe)",
            reason="every narrow tuning forgets: a fault only where somebody needs the rest",
        ),
        Condition(
            "forgetting", ">", 0.2, 3.0, 3.0,
            says="{detail}",
            denies="other text costs {value:+.2f} nats a token more than before",
            reason="a fifth of a nat of plain text, interval included: what a base of half the size"
            " loses",
        ),
        Condition(
            "forgetting_divergence", ">", 0.2, 1.0, 0.5,
            says="{detail}",
            denies="on other text it still answers as the base does ({value:.2f} nats apart)",
            reason="the same in distance: a fifth of a nat",
        ),
    ),
    ("overfitting", "learning-rate-too-high"),
    ("--replay general.jsonl:0.2", ),
    "Train with a fifth of general text in the mix: the loss on the probe should come back, that of"
    " the task should hardly change.",
    (
        "Still: a third of the rate, half of the epochs.",
        "Still: --rank half of it and --targets without the feed-forward.",
        "Still: keep base and adapter apart, and switch the adapter on for the task alone.",
    ),
)  # fmt: skip

ELSEWHERE = Symptom(
    "elsewhere",
    "Is training fine, and other text not?",
    (),
    (OVERFITTING, DRIFTED, FORGETTING),
)
