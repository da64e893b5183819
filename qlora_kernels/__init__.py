"""QLoRA engine."""
