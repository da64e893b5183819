"""Quantizing while loading never holds the dense model, however large it is."""

import subprocess
import sys
from pathlib import Path

from app.export.test_memory import checkpoint_of

# Prints the largest growth of what the process had allocated (RssAnon: pages of files that are
# mapped, which can be dropped, do not count) while it loaded.
LOAD = """
import re, sys, threading
import torch
from transformers import AutoModelForCausalLM
from qlora_kernels.integrations.transformers import NF4Config
torch.set_num_threads(1)
def allocated():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", status.read())[1]) * 1024
def load(name):
    return AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/" + name,
        quantization_config=NF4Config(), dtype=torch.bfloat16)
load("small")  # everything is imported and warm
before, peak, done = allocated(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, allocated())
thread = threading.Thread(target=watch)
thread.start()
model = load("large")
done.set()
thread.join()
print("grown", peak - before, "holds", model.get_memory_footprint())
"""


def test_the_peak_is_the_codes_and_a_few_tensors(tmp_path: Path):
    checkpoint_of(1, tmp_path / "small")
    largest = checkpoint_of(20, tmp_path / "large")
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=True
    )
    words = result.stdout.split()
    grown, holds = int(words[words.index("grown") + 1]), int(words[words.index("holds") + 1])
    dense = sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors"))
    assert dense > 80 * largest and holds < 0.3 * dense
    assert holds < grown < holds + 8 * largest, (
        f"{grown / 2**20:.0f} MiB, {dense / 2**20:.0f} dense"
    )
