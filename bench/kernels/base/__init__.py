"""`--base REV`: another commit of this repository, in a process of its own, as one more peer."""

from bench.kernels.base.process import Base, start
from bench.kernels.base.tree import Revision, refuse_stale, resolve, tree_of

__all__ = ["Base", "Revision", "refuse_stale", "resolve", "start", "tree_of"]
