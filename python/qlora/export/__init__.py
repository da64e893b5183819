"""Adapters and merged models for other readers: 16 bits, 4 bits, peft folders."""
