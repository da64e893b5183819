"""One run, looked at: curves, then the model and data where they are still there."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qlora.doctor.curves import Curves, curve_facts
from qlora.doctor.diagnosis import Diagnosis
from qlora.doctor.facts import Fact, by_name
from qlora.doctor.judge import judge
from qlora.doctor.readers import read_curves
from qlora_kernels.errors import InputError

Progress = Callable[[int, int, str], None]

ADAPTER_FILES = ("adapter_config.json", "adapter/adapter_config.json")
SETTINGS = "settings.yaml"
OF_ADAPTERS = ("learning_rate_peak", "reach", "update_ratio", "update_ratio_peak")


@dataclass(frozen=True)
class Question:
    """What to look at: a run, data to compare it with, and whether to open its model."""

    run: Path
    recent: Path | None = None
    probe: Path | None = None
    measure: bool = True
    progress: Progress | None = None


@dataclass(frozen=True, eq=False)
class Examination:
    """What was found, before anything is concluded."""

    curves: Curves
    facts: dict[str, Fact]
    not_measured: tuple[str, ...]

    def diagnosis(self) -> Diagnosis:
        """What the rules make of it."""
        return judge(self.facts, self.not_measured)


def diagnose(
    run: Path, recent: Path | None = None, probe: Path | None = None, measure: bool = True
) -> Diagnosis:
    """Examine a run folder, trainer_state.json, TensorBoard folder or table, and judge.

    recent: newer data to compare with the training data. probe: text to look for forgetting on.
    Raises InputError where `run` has no curves; what else is missing only lowers confidence.
    """
    return examine(Question(run, recent, probe, measure)).diagnosis()


def examine(question: Question) -> Examination:
    """All facts that can be had; `not_measured` says why others cannot."""
    curves = read_curves(question.run)
    probe = Fact("probe_given", float(question.probe is not None))
    facts = [*_comparable(question.run, curve_facts(curves)), *_rank(question.run), probe]
    measured, missing = _measure(question)
    return Examination(curves, by_name([*facts, *measured]), tuple(missing))


def _measure(question: Question) -> tuple[list[Fact], list[str]]:
    if not question.measure:
        return [], [f"{_unopened(question)}: not asked for (--no-measure)"]
    if not (question.run / SETTINGS).is_file():
        return [], [f"{_unopened(question)}: only a run folder of `qlora train` leads to them"]
    try:
        from qlora.doctor.measures import measure_all  # transformers: seconds to import
        from qlora.doctor.subject import Subject
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("qlora"):
            raise
        return [], [f"{_unopened(question)}: needs qlora_kernels[train] (no module {error.name})"]

    try:
        subject = Subject.open(question.run, question.recent, question.probe)
    except (InputError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        return [], [f"the model and its data could not be opened: {reason}"]
    return measure_all(subject, question.progress)


def _comparable(run: Path, facts: list[Fact]) -> list[Fact]:
    """Without the rates and steps of a run that trained something else than adapters.

    What the rules hold them against are LoRA's: full fine-tuning takes rates 10 times lower.
    """
    settings = run / SETTINGS
    if not settings.is_file():
        return facts
    method = re.search(r"^method: *(\w+)", settings.read_text(encoding="utf-8"), re.MULTILINE)
    if method is None or method[1] == "lora":
        return facts
    return [fact for fact in facts if fact.name not in OF_ADAPTERS]


def _unopened(question: Question) -> str:
    """What is not looked at without the model; files that were given are not passed over."""
    files = [file.name for file in (question.recent, question.probe) if file is not None]
    return "the model and its data" + "".join(f", {name}" for name in files)


def _rank(run: Path) -> list[Fact]:
    """The rank, from the adapter's own file, which peft writes as we do."""
    folder = run if run.is_dir() else run.parent
    places = [folder / name for name in ADAPTER_FILES]
    places += sorted(folder.glob("checkpoint-*/adapter_config.json"))
    for place in places:
        if place.is_file():
            try:
                rank = json.loads(place.read_text(encoding="utf-8"))["r"]
                return [Fact("rank", float(rank), detail=f"rank {rank}")]
            except (ValueError, KeyError, TypeError):
                return []
    return []
