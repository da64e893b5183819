"""`python -m bench --op`: the kernels of one op against their peers, in one run."""

from bench.kernels.command import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
