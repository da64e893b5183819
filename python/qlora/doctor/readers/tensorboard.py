"""Scalars of a TensorBoard folder, by TensorBoard's own reader."""

from pathlib import Path

from qlora.doctor.curves import Curves
from qlora.doctor.readers.names import match, require_loss, to_curves
from qlora_kernels.errors import InputError

EVERYTHING = 0  # TensorBoard's size guidance for "keep all"


def event_files(folder: Path) -> list[Path]:
    """Event files in a folder or below it."""
    return sorted(folder.rglob("*tfevents*"))


def read_events(path: Path) -> Curves:
    """Curves of a folder or one event file; raises InputError where it has no training loss."""
    # Imported here: it is seconds of imports, and only this source needs it.
    from tensorboard.backend.event_processing.event_accumulator import (
        SCALARS,
        TENSORS,
        EventAccumulator,
    )
    from tensorboard.util.tensor_util import make_ndarray

    folders = {file.parent for file in event_files(path)} if path.is_dir() else {path}
    if len(folders) > 1:
        listed = ", ".join(sorted(str(folder.relative_to(path)) for folder in folders))
        raise InputError(f"doctor: {path} should hold one run's events, held those of {listed}")
    events = EventAccumulator(str(folders.pop()), {SCALARS: EVERYTHING, TENSORS: EVERYTHING})
    events.Reload()
    tags = events.Tags()
    scalars, tensors = tags["scalars"], tags["tensors"]
    matched = match([*scalars, *tensors])
    require_loss(str(path), matched, [*scalars, *tensors])
    points = {}
    for field, tag in matched.items():
        if tag in scalars:
            points[field] = {event.step: event.value for event in events.Scalars(tag)}
        else:
            points[field] = {
                e.step: make_ndarray(e.tensor_proto).item() for e in events.Tensors(tag)
            }
    return to_curves(str(path), points)
