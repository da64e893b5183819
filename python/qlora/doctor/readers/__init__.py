"""Records of runs as curves: ours, the Hugging Face Trainer's, TensorBoard's, a table."""

from qlora.doctor.readers.source import read_curves

__all__ = ["read_curves"]
