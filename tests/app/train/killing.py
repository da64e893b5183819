"""`qlora train` in a process of its own, killed from outside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from qlora.settings import to_yaml
from qlora.train.settings import TrainSettings

# As tests/app/conftest.py has it: in float32 on every machine.
PROGRAM = """
import sys
from pathlib import Path
from qlora import cli, models
models.CPUINFO = Path("no-cpuinfo")
sys.exit(cli.main())
"""


def kill_after_a_checkpoint(settings: TrainSettings, config: Path) -> None:
    """kill -9, at whatever moment after the first one; threads as many as here."""
    config.write_text(to_yaml(settings))
    command = [sys.executable, "-c", PROGRAM, "train", "--config", str(config)]
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((settings.folder / "checkpoints").glob("checkpoint-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
