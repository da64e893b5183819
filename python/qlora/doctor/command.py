"""`qlora doctor`: why a fine-tune went as it did."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from qlora.doctor.diagnosis import Diagnosis
from qlora.doctor.examine import Examination, Question, examine
from qlora.doctor.report import describe
from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments, setting
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text

ENVIRONMENT = "env"

HELP = """\
Why a fine-tune went as it did: what is wrong, the numbers that say so, what it is not and why, the
flag to change, and the experiment that would confirm it.

RUN is a run folder of `qlora train`; or any other's record: a trainer_state.json of the Hugging
Face Trainer (or its output folder), a TensorBoard folder, or a CSV of losses. Curves alone cannot
tell a rank that is too low from a rate that is too low or labels that are masked: all are flat.
So for a run folder the model is opened again and measured (minutes, on a CPU): which part of the
gradient the adapters can express, which falls on layers without one, what never moved, whether the
base already finds validation harder. --no-measure skips it. From curves alone the findings say
less surely the same, and name the measurement that would settle it.

A finding has at least 50 % confidence: evidence for it less evidence against it. A healthy run gets
none. docs/diagnosis.md has the whole reasoning as a tree, printed from the same table of rules.

qlora doctor env: which backends run here, why the others do not, and a check of those that do."""

EXAMPLES = """\
examples:
  qlora doctor runs/first
  qlora doctor runs/first --recent tickets-2026.jsonl --probe encyclopaedia.txt
  qlora doctor outputs/checkpoint-500/trainer_state.json
  qlora doctor losses.csv --json
  qlora doctor env"""


@dataclass(frozen=True)
class DoctorSettings:
    """What to look at; every field is a flag and a key of `--config`."""

    run: str | None = setting(
        None, "run folder, trainer_state.json, TensorBoard folder, CSV; or env", positional=True
    )
    recent: Path | None = setting(
        None, "newer data: does it still look like the training data? (.txt, .jsonl)"
    )
    probe: Path | None = setting(
        None, "text unlike the training data, to look for forgetting on; default a page of ours"
    )
    measure: bool = setting(True, "open the model and data of a run folder, and measure")
    output: Path | None = setting(
        None, "folder for doctor.json and doctor.png; default RUN, if it is a folder"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, DoctorSettings)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Examine, judge, print and write; returns the exit code."""
    settings = from_arguments(DoctorSettings, arguments)
    if settings.run is None:
        raise InputError("doctor: RUN (or env) should be given, was missing")
    if settings.run == ENVIRONMENT:
        return _environment(arguments.json)
    path = Path(settings.run).expanduser()
    for name, file in (("recent", settings.recent), ("probe", settings.probe)):
        if file is not None and not file.is_file():
            raise InputError(f"doctor: --{name} should be a file, was {file}")
    if settings.output is not None and settings.output.exists() and not settings.output.is_dir():
        raise InputError(f"doctor: --output should be a folder, was the file {settings.output}")
    shown = _progress if sys.stderr.isatty() else None
    question = Question(path, settings.recent, settings.probe, settings.measure, shown)
    found = examine(question)
    diagnosis = found.diagnosis()
    stream = sys.stderr if arguments.json else sys.stdout
    print(describe(diagnosis, str(path)), file=stream)
    output = settings.output or (path if path.is_dir() else None)
    if output is not None:
        _write(output, found, diagnosis)
        print(f"\nwritten: {output / 'doctor.json'}, {output / 'doctor.png'}", file=stream)
    if arguments.json:
        print(json.dumps(diagnosis.to_json()))
    return 0


def _write(output: Path, found: Examination, diagnosis: Diagnosis) -> None:
    write_text(output / "doctor.json", json.dumps(diagnosis.to_json(), indent=1) + "\n")
    from qlora.doctor.picture import draw  # with matplotlib, which a plain install lacks

    draw(found.curves, diagnosis, output / "doctor.png")


def _environment(as_json: bool) -> int:
    from qlora.doctor.environment import describe_environment, examine_environment

    found = examine_environment()
    print(json.dumps(found.to_json()) if as_json else describe_environment(found))
    return 0 if found.healthy else 1


def _progress(done: int, total: int, what: str) -> None:
    """One line that is written over, on a screen."""
    end = "\n" if done == total else ""
    print(f"\r\033[K{done}/{total} {what}", end=end, file=sys.stderr, flush=True)
