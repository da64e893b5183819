"""Measurements that others can repeat: kernels against their peers, and studies on real models."""
