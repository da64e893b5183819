"""`python -m bench gate`: instructions of the CPU kernels against the committed counts."""

from bench.instruction_gate.command import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
