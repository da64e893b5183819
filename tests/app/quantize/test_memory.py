"""Quantizing takes the memory of a few tensors; loading that of the codes."""

import subprocess
import sys
from pathlib import Path

from app.export.test_memory import checkpoint_of

# Prints by how many bytes the peak of the process grew while it quantized, and while it loaded.
QUANTIZE = """
import resource, sys
from pathlib import Path
import torch
from qlora import cli
from qlora.quantize.stored import load_stored
torch.set_num_threads(1)
def work(name):
    folder = sys.argv[1] + "/" + name
    assert cli.main(["quantize", folder, "-o", folder + "-nf4"]) == 0
    yield
    load_stored(Path(folder + "-nf4"), torch.bfloat16)
    yield
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
list(work("small"))  # everything is imported and warm
before = peak()
for _ in work("large"):
    print("grown", peak() - before)
"""


def test_the_peak_does_not_grow_with_the_checkpoint(tmp_path: Path):
    checkpoint_of(1, tmp_path / "small")
    largest = checkpoint_of(20, tmp_path / "large")
    result = subprocess.run(
        [sys.executable, "-c", QUANTIZE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    quantizing, loading = (int(line.split()[1]) for line in lines if line.startswith("grown "))
    dense, codes = (
        sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors"))
        for name in ("large", "large-nf4")
    )
    assert dense > 80 * largest and codes < 0.3 * dense
    assert quantizing < 8 * largest, f"{quantizing / 2**20:.0f} MiB for {dense / 2**20:.0f}"
    assert loading < codes + 8 * largest, f"{loading / 2**20:.0f} MiB for {codes / 2**20:.0f}"
