"""Records of runs by formula: what a healthy run looks like, and what each fault does to it."""

from collections.abc import Callable
from typing import Any

import numpy

from qlora.doctor.curves import Curves, Series, series
from qlora.doctor.facts import Fact

STEPS = 120
RANDOM = numpy.random.default_rng(0)
NOISE = 0.05 * RANDOM.standard_normal(STEPS)

# What measuring a healthy run gives, in the middle of what was seen.
HEALTHY = {
    "unchanged_parameters": 0.0,
    "captured_gradient": 0.3,
    "untargeted_gradient": 0.02,
    "effective_rank": 0.4,
    "stable_rank": 0.2,
    "generalization_gap": 0.05,
    "gap_learned": 0.03,
    "calibration_error_validation": 0.02,
    "drift_validation": 0.02,
    "forgetting": 0.02,
    "forgetting_divergence": 0.02,
    "quantization_error": 0.09,
    "supervised_share": 0.4,
    "characters_per_token": 3.2,
    "unknown_script": 0.0,
    "base_training_loss": 3.0,
    "update_ratio": 0.01,
    "update_ratio_peak": 0.04,
    "rank": 16.0,
    "captured_by_chance": 0.15,
    "capturable_gradient": 0.95,
    "gradient_left": 0.03,
    "unanswered_examples": 0.0,
    "probe_given": 0.0,
    "quantization_loss": 0.03,
}


def facts(values: dict[str, float]) -> dict[str, Fact]:
    return {name: Fact(name, value, detail=f"{name} {value:g}") for name, value in values.items()}


def curve(of: Callable[[Any], Any], every: int = 1) -> Series:
    """of(t) with t from 0 to 1 over the run."""
    steps = numpy.arange(1, STEPS + 1, every)
    return series(dict(zip(steps.tolist(), of(steps / STEPS).tolist(), strict=True)))


def healthy_curves(**changes: Any) -> Curves:
    """Falls from 3.0 to 2.0 and stays there, validation beside it."""
    parts: dict[str, Any] = {
        "training": curve(lambda t: 2 + numpy.exp(-6 * t) + NOISE),
        "validation": curve(lambda t: 2.05 + numpy.exp(-6 * t), every=12),
        "gradient_norm": curve(lambda t: 1 + 0.1 * numpy.sin(40 * t)),
        "learning_rate": curve(lambda t: 2e-4 * (1 + numpy.cos(numpy.pi * t)) / 2),
        "epoch": curve(lambda t: 2 * t),
    }
    return Curves("made", **{**parts, **changes})
