"""What the doctor knows: named numbers with an interval, and what each of them means."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qlora_kernels.errors import InputError


@dataclass(frozen=True, slots=True)
class Fact:
    """One number about a run. low, high: its 95 % interval, None where there is none.

    detail: one line of evidence in words. by_layer: the same number for single layers.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    detail: str = ""
    by_layer: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A fact is finite: what is not is counted (`nonfinite_steps`), never averaged."""
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise InputError(f"fact {self.name}: {name} should be finite, was {number}")


Facts = Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a fact of some name is: its unit, what it says, and how it is computed."""

    unit: str
    meaning: str
    formula: str


# Losses are means of -log p per supervised token, in nats.
CURVE_KINDS = {
    "steps": Kind("steps", "optimizer steps that were recorded", "count"),
    "evaluations": Kind("count", "validations that were recorded", "count"),
    "epochs": Kind("passes", "passes over the training data", "last epoch of the record"),
    "initial_loss": Kind("nats", "training loss at the start", "mean of the first 1 % of steps"),
    "final_training_loss": Kind("nats", "training loss at the end", "mean of the last 10 %"),
    "training_fall": Kind("nats", "what training took off its loss", "initial - final"),
    "first_validation_loss": Kind("nats", "the first validation", "as recorded"),
    "best_validation_loss": Kind("nats", "the best validation", "least of them"),
    "final_validation_loss": Kind("nats", "the last validation", "as recorded"),
    "validation_rise": Kind("nats", "lost since the best validation", "final - best"),
    "best_validation_place": Kind(
        "share of the run", "when validation was best", "its step / last step"
    ),
    "curve_gap": Kind(
        "nats", "validation above training at the end", "final validation - final training loss"
    ),
    "trend": Kind(
        "nats over the run", "training loss along a straight line", "Theil-Sen slope x steps"
    ),
    "late_slope": Kind(
        "nats per tenth of the run",
        "how training loss still moves in the last third (negative: falls)",
        "Theil-Sen slope: median over pairs of steps of (difference of loss / difference of step)",
    ),
    "late_fall_share": Kind(
        "share", "how much of the whole fall came in the last third", "fall in it / training_fall"
    ),
    "divergence": Kind(
        "nats",
        "training loss lost again since its best",
        "final - least of initial and running mean",
    ),
    "overshoot": Kind(
        "nats",
        "how far training loss rose above its start",
        "highest median of 5 records - initial",
    ),
    "loss_jump": Kind(
        "nats", "largest jump of a step's loss", "loss - median of the 20 steps before"
    ),
    "loss_jump_z": Kind(
        "robust deviations",
        "the same against the usual noise",
        "jump / (1.4826 x median deviation)",
    ),
    "loss_jumps": Kind(
        "count", "how often the loss jumped", "steps above 8 deviations, neighbours as one"
    ),
    "loss_jump_recovered": Kind(
        "share", "how much of the jump was gone soon after", "1 - rest after 10 steps / jump"
    ),
    "jump_rows_z": Kind(
        "deviations",
        "how far from others the base finds the examples of the step at which the loss jumped",
        "(mean base loss of them - of others) / (deviation of others / sqrt(n))",
    ),
    "gradient_norm_jump": Kind(
        "ratio",
        "largest jump of the gradient's norm",
        "norm / largest of the 20 steps before (and the median)",
    ),
    "nonfinite_steps": Kind("steps", "steps with a loss or norm that is not a number", "count"),
    "zero_gradient_steps": Kind("share", "steps without any gradient", "norm = 0 / all"),
    "learning_rate_peak": Kind("per step", "the highest learning rate", "maximum of the record"),
    "learning_rate_end": Kind("share", "what was left of it at the end", "last / highest"),
    "reach": Kind(
        "change of a parameter", "the farthest that AdamW can have moved one", "sum of the rates"
    ),
    "update_ratio": Kind(
        "ratio", "how far a step moves the adapters", "median of |update| / |weights|"
    ),
    "update_ratio_peak": Kind(
        "ratio", "the same where it was highest", "highest median of 5 steps"
    ),
}

MEASURED_KINDS = {
    "captured_gradient": Kind(
        "share",
        "of the full weight gradient, what the adapters' row and column spaces can express",
        "|P_B G + G P_A - P_B G P_A|^2 / |G|^2",
    ),
    "captured_gradient_start": Kind(
        "share", "the same directions against the gradient of the base", "as captured_gradient"
    ),
    "captured_by_chance": Kind(
        "share",
        "what as many random directions would hold",
        "1 - (1 - rank / in) (1 - rank / out)",
    ),
    "capturable_gradient": Kind(
        "share",
        "what the best new directions hold, as many as the rank",
        "sum of the largest sigma(G)^2 / |G|^2",
    ),
    "gradient_left": Kind(
        "ratio", "the gradient of adapted layers at the end", "|G| / |G| of the base"
    ),
    "untargeted_gradient": Kind(
        "share", "of gradient energy, what falls on linear layers without adapter", "energy / all"
    ),
    "untargeted_density": Kind(
        "ratio", "the same per weight", "energy per weight without adapter / with one"
    ),
    "untargeted_capturable": Kind(
        "share",
        "of what adapters of that rank could follow everywhere, what is there",
        "sum of the largest sigma(G)^2 without adapter / of all",
    ),
    "untargeted_left": Kind(
        "ratio", "the gradient there at the end", "|G| / |G| of the base, without adapter"
    ),
    "effective_rank": Kind(
        "share of the rank", "directions that updates s B A use", "exp(entropy of s^2) / rank"
    ),
    "stable_rank": Kind(
        "share of the rank",
        "the same by energy over the largest",
        "|s B A|_F^2 / |s B A|_2^2 / rank",
    ),
    "unchanged_parameters": Kind(
        "share", "adapter parameters that training never moved", "equal to their start / all"
    ),
    "training_loss": Kind("nats", "loss on training examples, without dropout", "mean per token"),
    "validation_loss": Kind("nats", "loss on validation examples", "mean per token"),
    "base_training_loss": Kind("nats", "the base's on training examples", "mean per token"),
    "base_validation_loss": Kind("nats", "the base's on validation examples", "mean per token"),
    "generalization_gap": Kind(
        "nats", "validation above training, same model", "validation - training, bootstrap"
    ),
    "gap_learned": Kind(
        "nats", "the gap that training made", "gap of the tuned model - gap of the base, bootstrap"
    ),
    "calibration_error_training": Kind(
        "share", "confidence minus accuracy, training", "expected calibration error"
    ),
    "calibration_error_validation": Kind(
        "share", "confidence minus accuracy, validation", "expected calibration error"
    ),
    "overconfidence": Kind(
        "share", "how much surer than right it is on validation", "confidence - accuracy"
    ),
    "drift_validation": Kind(
        "nats", "base loss on validation above training", "difference of means, two-sample test"
    ),
    "drift_recent": Kind(
        "nats", "base loss on recent data above training", "difference of means, two-sample test"
    ),
    **{
        f"drift_{name}_{end}": Kind(unit, f"{meaning} ({name})", formula)
        for name in ("validation", "recent")
        for end, unit, meaning, formula in (
            ("probability", "probability", "random splits differ as much", "permutation test"),
            (
                "tokens",
                "bits",
                "distance of token frequencies",
                "JSD - its mean over random splits",
            ),
            ("tokens_probability", "probability", "random splits are as far", "permutation test"),
        )
    },
    "recent_loss_increase": Kind(
        "nats", "loss of the tuned model on recent data above training", "difference of means"
    ),
    "forgetting": Kind("nats", "loss on probe text above the base's", "adapter - base"),
    "forgetting_divergence": Kind("nats", "distance from the base on probe text", "KL(base|tuned)"),
    "quantization_error": Kind(
        "ratio", "relative error of quantized layers' outputs", "|x(W - W4)| / |xW|"
    ),
    "quantization_loss": Kind(
        "share", "probability of right tokens that the quantized base lost", "1 - p4 / p16"
    ),
    "supervised_share": Kind("share", "tokens with a label", "labels not masked / all"),
    "unanswered_examples": Kind(
        "share",
        "examples that teach only where to stop",
        "examples without a label but the end token / all",
    ),
    "characters_per_token": Kind("characters", "of the training text", "characters / tokens"),
    "unknown_script": Kind(
        "share", "of the text in scripts that the tokenizer hardly knows", "characters / all"
    ),
}

DERIVED_KINDS = {
    "sure_fall": Kind(
        "share",
        "of the loss that training took off, beyond doubt",
        "larger of training_fall and -trend at the near end of the interval / initial_loss",
    ),
    "captured_ratio": Kind(
        "ratio", "captured against chance", "captured_gradient / captured_by_chance"
    ),
    "gap_explained": Kind(
        "share", "of the gap that the base has too", "1 - gap_learned / generalization_gap"
    ),
}

SETTING_KINDS = {
    "probe_given": Kind("yes or no", "text to keep was named", "1 with --probe, else 0"),
    "rank": Kind("rank", "of the adapters", "settings"),
    "lora_plus_ratio": Kind("ratio", "rate of B over that of A", "settings"),
}

KINDS: dict[str, Kind] = {**CURVE_KINDS, **MEASURED_KINDS, **DERIVED_KINDS, **SETTING_KINDS}


def by_name(facts: Iterable[Fact]) -> dict[str, Fact]:
    """Name -> fact; raises InputError for a name that has no row in KINDS."""
    found = {fact.name: fact for fact in facts}
    for name in found:
        if name not in KINDS:
            raise InputError(f"doctor: a fact should have a row in KINDS, {name} has none")
    return found


def to_json(facts: Facts) -> dict[str, Any]:
    """Plain values: name -> value, low, high, detail, by_layer."""
    records = {name: asdict(fact) for name, fact in facts.items()}
    return {name: {k: v for k, v in r.items() if k != "name"} for name, r in records.items()}


def from_json(values: Mapping[str, Any]) -> dict[str, Fact]:
    """The inverse of `to_json`; names that rules no longer know are kept."""
    return {name: Fact(name, **record) for name, record in values.items()}
