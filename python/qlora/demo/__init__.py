"""`make demo`: a real model learns to understand a smart home, from download to plot."""
