"""The watch: what each step's numbers say, judged before the step changes a weight.

`watched.py` is what it remembers, `judge.py` what it makes of a step (a `Verdict`), `brittle.py`
which layers to look at then. What a verdict does to a run is decided in one place, which is not
here: `qlora.train.action`.
"""
