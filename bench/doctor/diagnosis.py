"""What the doctor says of a finished trial, and of facts that were saved."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.doctor.experiment import Trial
from qlora.doctor import diagnose, judge
from qlora.doctor.diagnosis import Diagnosis
from qlora.doctor.facts import from_json, to_json
from qlora_kernels.files import write_text

DIGITS = 5  # of a saved fact: more than its interval is worth


def diagnosed(trial: Trial, again: bool = False) -> dict[str, Any]:
    """Facts and findings of a trial, measured once, or `again`."""
    done = trial.folder / "diagnosed.json"
    if again or not done.exists():
        run = trial.folder / "run"
        is_ours = trial.experiment.trainer == "qlora"
        diagnosis = diagnose(run if is_ours else run / "trainer_state.json")
        found = {
            "facts": rounded(to_json(diagnosis.facts)),
            "not_measured": list(diagnosis.not_measured),
            **findings(diagnosis),
        }
        write_text(done, json.dumps(found) + "\n")
    values = json.loads(done.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def rejudged(run: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded run with the findings that its facts lead to now."""
    return {**run, **findings(judge(from_json(run["facts"]), run["not_measured"]))}


def findings(diagnosis: Diagnosis) -> dict[str, Any]:
    """Causes, the likeliest first, with what was said for them."""
    kept = ("cause", "confidence", "title", "evidence", "fix")
    found = [{name: asdict(one)[name] for name in kept} for one in diagnosis.findings]
    return {"findings": rounded(found)}


def rounded(value: Any) -> Any:
    """The same with DIGITS significant digits in every number; empty parts are left out."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        parts = {key: rounded(part) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part not in (None, "", {})}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return value
