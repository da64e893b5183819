"""Merging adapters: effective updates in, one peft folder and a report out."""

from qlora.merge.files import merge_adapters
from qlora.merge.merge import merge_folders
from qlora.merge.report import MergeReport
from qlora.merge.spec import MergeSpec

__all__ = ["MergeReport", "MergeSpec", "merge_adapters", "merge_folders"]
