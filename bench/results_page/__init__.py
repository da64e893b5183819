"""`python -m bench results`: committed records as pages, kept in step by a test."""

from bench.results_page.command import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
