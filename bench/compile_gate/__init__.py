"""`python -m bench kernels-report`: what the compiler made of every kernel, without a GPU."""

from bench.compile_gate.command import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
