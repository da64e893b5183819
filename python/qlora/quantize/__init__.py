"""Model folders in 4 or 8 bits: written a tensor at a time, loaded without dense weights."""
