"""`python -m bench gpu`: on a machine with a GPU, build, test, and time what is green."""

from bench.gpu.command import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
