"""Which reader a path is for."""

from pathlib import Path

from qlora.doctor.curves import Curves
from qlora.doctor.readers.run_folder import METRICS, read_run
from qlora.doctor.readers.table import read_table
from qlora.doctor.readers.tensorboard import event_files, read_events
from qlora.doctor.readers.trainer_state import find_state, read_state
from qlora_kernels.errors import InputError


def read_curves(path: Path) -> Curves:
    """The curves recorded at `path`; raises InputError, one line, for what holds none."""
    if not path.exists():
        raise InputError(f"doctor: {path} should be a run, was not found")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".json":
        return read_state(path)
    if path.suffix == ".jsonl":
        return read_run(path)
    if "tfevents" in path.name:
        return read_events(path)
    return read_table(path)


def _read_folder(folder: Path) -> Curves:
    if (folder / METRICS).is_file():
        return read_run(folder / METRICS)
    state = find_state(folder)
    if state is not None:
        return read_state(state)
    if event_files(folder):
        return read_events(folder)
    raise InputError(
        f"doctor: {folder} should hold {METRICS}, trainer_state.json or TensorBoard's events,"
        " held none of them"
    )
