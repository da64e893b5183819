"""Faults put into training runs on purpose, and whether the doctor names them."""
