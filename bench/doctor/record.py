"""The study's record: every run with its settings, curves, facts and findings, and where from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.doctor.page import page
from bench.doctor.picture import draw
from qlora.provenance import provenance
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text

PACKAGES = ("qlora_kernels", "torch", "transformers", "peft", "hassil", "home-assistant-intents")
NAME = "record.json"


def write_record(folder: Path, runs: Sequence[Mapping[str, Any]], seconds: float | None) -> Path:
    """Write record.json, and the page and picture made from it; returns the first.

    seconds: what the runs took, all that were made now; None where some were kept from before.
    """
    record = {**provenance(PACKAGES), "seconds": seconds, "runs": list(runs)}
    return _write(folder, record)


def rewrite_record(folder: Path, runs: Sequence[Mapping[str, Any]]) -> Path:
    """The same runs judged again: what was measured keeps its provenance, the judge has its own."""
    record = read_record(folder)
    judge = {name: value for name, value in provenance(()).items() if name in ("commit", "date")}
    return _write(folder, {**record, "judged": judge, "runs": list(runs)})


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a folder; InputError without one."""
    path = folder / NAME
    if not path.is_file():
        raise InputError(f"doctor: {path} should be there to judge again, is not")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def _write(folder: Path, record: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    draw(record["runs"], folder / "matrix.png")
    write_text(folder / "README.md", page(record))
    return write_text(folder / NAME, one_run_a_line(record))


def one_run_a_line(record: Mapping[str, Any]) -> str:
    """JSON whose changes a person can follow: all runs would be one line, or a hundred thousand."""
    head = json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1)
    runs = ",\n".join(json.dumps(run, ensure_ascii=False) for run in record["runs"])
    return f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n'
