"""Training: settings, one loop, checkpoints that resume bit for bit, metrics and curves.

`qlora.train.trainer.train` is the run as a function, `qlora.train.settings.TrainSettings` its
argument.
"""
