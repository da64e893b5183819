"""What can only be known by opening the model: one file per measurement, its formula on top."""

from collections.abc import Callable

from qlora.doctor.facts import Fact
from qlora.doctor.measures import (
    answers,
    calibration_error,
    captured_gradient,
    drift,
    effective_rank,
    forgetting,
    generalization_gap,
    jump_rows,
    quantization_error,
    rates,
    scripts,
    supervision,
    unchanged_parameters,
    untargeted_gradient,
)
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError

Progress = Callable[[int, int, str], None]

# What a person reads while it is measured -> who measures it.
MEASURES: dict[str, Callable[[Subject], list[Fact]]] = {
    "rates of the factors": rates.measure,
    "labels": supervision.measure,
    "scripts": scripts.measure,
    "answers among the labels": answers.measure,
    "rows where the loss jumped": jump_rows.measure,
    "parameters that never changed": unchanged_parameters.measure,
    "ranks of the updates": effective_rank.measure,
    "what the adapters can follow": captured_gradient.measure,
    "what other layers are asked for": untargeted_gradient.measure,
    "training against validation": generalization_gap.measure,
    "how sure it is": calibration_error.measure,
    "validation against training data": drift.measure_validation,
    "recent against training data": drift.measure_recent,
    "what it forgot": forgetting.measure,
    "what quantization lost": quantization_error.measure,
}


def measure_all(subject: Subject, progress: Progress | None = None) -> tuple[list[Fact], list[str]]:
    """All facts, and a sentence for each measurement that could not be made.

    progress(done, total, what) is called before each. The same subject gives the same facts.
    """
    facts, failures = list[Fact](), list[str]()
    for done, (what, measure) in enumerate(MEASURES.items()):
        if progress is not None:
            progress(done, len(MEASURES), what)
        try:
            facts += measure(subject)
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{what} could not be measured: {reason}")
    if progress is not None:
        progress(len(MEASURES), len(MEASURES), "measured")
    return facts, failures
