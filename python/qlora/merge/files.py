"""Merging folders: read, merge, and write the result with its report, whole or not at all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qlora.merge.adapters import short_names
from qlora.merge.base import BaseWeights
from qlora.merge.merge import Watch, merge_folders
from qlora.merge.report import MergeReport
from qlora.merge.spec import MergeSpec
from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder, write_text
from qlora_kernels.formats.adapter_folder import read_adapter_folder, write_adapter_folder

REPORT, PICTURE = "report.json", "heat_map.png"


def merge_adapters(
    adapters: Sequence[str | Path],
    output: str | Path,
    spec: MergeSpec,
    base: BaseWeights | None = None,
    watch: Watch = lambda what, done, count: None,
) -> MergeReport:
    """Merge peft folders into the folder `output`: an adapter, report.json and heat_map.png.

    The formulas are those of `qlora.merge.methods`, over the effective updates of LoRA, rsLoRA and
    (with `base`) DoRA. Raises InputError, before anything is written, for folders that are absent,
    foreign or do not fit each other, and for an output that exists.
    """
    paths = [Path(path) for path in adapters]
    check_places(paths, Path(output))
    folders = [read_adapter_folder(path) for path in paths]
    merged, report = merge_folders(folders, short_names(paths), spec, base, watch)
    del folders  # as large as the result, which is copied once more when it is written
    with whole_folder(output) as temporary:
        write_adapter_folder(merged, temporary)
        report = _draw(report, temporary / PICTURE)
        write_report(report, temporary)
    return report


def check_places(adapters: Sequence[Path], output: Path) -> None:
    """Refuse adapters that are not there, and an output that is (nothing is written over)."""
    if not adapters:
        raise InputError("merge: adapters should be at least one folder, were none")
    for path in adapters:
        if not path.is_dir():
            what = "a file" if path.exists() else "absent"
            raise InputError(f"merge: {path} should be an adapter folder, is {what}")
        if output.exists() and output.samefile(path):
            raise InputError(f"merge: {output} should be another folder than the adapters, is one")
    if output.exists():
        raise InputError(f"merge: {output} should not exist yet, does")


def _draw(report: MergeReport, path: Path) -> MergeReport:
    """Merging needs nothing but the library; a picture needs matplotlib, and its lack is told."""
    try:
        from qlora.merge.picture import draw_heat_map
    except ModuleNotFoundError as error:
        note = f"there is no {PICTURE}: it needs pip install 'qlora_kernels[train]' ({error})"
        return replace(report, notes=(*report.notes, note))
    draw_heat_map(report, path)
    return report


def write_report(report: MergeReport, folder: Path) -> None:
    """report.json into the folder."""
    write_text(folder / REPORT, json.dumps(report.to_dict(), indent=2) + "\n")
