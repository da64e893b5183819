"""Whole training steps: ours and the peers', same model, data, seed and batch, in turn."""
