"""Preflight: one step before the first, after which every bit is as it was.

`gradients.py` asks whether all that is trained learns, `labels.py` whether there is anything to
learn, `memory.py` whether the run fits; `check.py` asks all of them.
"""
