"""Training data: files -> examples with supervised tokens -> packed rows."""

from qlora.data.encode import IGNORE, Example
from qlora.data.packing import Batch, collate, pack
from qlora.data.sources import read_examples

__all__ = ["IGNORE", "Batch", "Example", "collate", "pack", "read_examples"]
