"""Lints of training data: what goes wrong quietly, told before the first step."""
