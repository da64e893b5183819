"""The sum of all components is the measured peak of a process, above its base, on two shapes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from qlora.plan.config_file import architecture_of
from qlora.plan.memory import Forecast
from qlora.plan.settings import PlanSettings

PROGRAM = Path(__file__).with_name("measured_peak.py")
NEAR = 0.05  # of the measured peak; the project's law for the planner
EQUAL_HEADS = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1408,
    "head_dim": 64,
}
FEW_KEYS = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
    "head_dim": 64,
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak that Linux keeps in /proc")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(("sizes", "rows"), [(EQUAL_HEADS, 2), (FEW_KEYS, 4)])
def test_the_sum_is_the_measured_peak(sizes: dict[str, int], rows: int, checkpointing: bool):
    settings = PlanSettings(
        device="cpu",
        dtype="float32",
        sequence_length=512,
        batch_size=rows,
        packing=False,
        gradient_checkpointing=checkpointing,
    )
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "QLORA_BACKEND": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    words = [sys.executable, str(PROGRAM), json.dumps([sizes, asdict(settings)])]
    result = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    measured = int(result.stdout)
    config = {**sizes, "model_type": "llama", "tie_word_embeddings": False}
    forecast = Forecast(architecture_of(config, Path("config.json")), settings, "qlora")
    print(f"{forecast.total / measured - 1:+.1%}", forecast.components)
    assert abs(forecast.total / measured - 1) <= NEAR
