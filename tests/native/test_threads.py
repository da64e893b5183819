"""One thread pool: torch's. No second OpenMP runtime, and no use of the pool in a forked child."""

from native.test_instruction_sets import run

RUNTIMES = """
import torch
from qlora_kernels import native
import qlora_kernels as qk
torch.set_num_threads(2)
with qk.use_backend("cpu"):
    q = qk.quantize(torch.randn(512, 512))
    qk.qlora_linear(torch.randn(64, 512), q)
(torch.randn(999, 999) @ torch.randn(999, 999)).sum()
names = {path for *_, path in native.mappings()}
print(*(n for n in names if n.rpartition("/")[2].startswith(("libgomp", "libomp", "libiomp"))))
"""

FORK = """
import os, torch, warnings
import qlora_kernels as qk
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork beside threads
torch.set_num_threads(2)
x, w = torch.randn(64, 512), torch.randn(512, 512)
with qk.use_backend("cpu"):
    q = qk.quantize(w)
    y = qk.qlora_linear(x, q)
    child = os.fork()
    if child == 0:  # as a DataLoader worker: forked, then set to one thread
        torch.set_num_threads(1)
        same = torch.equal(qk.qlora_linear(x, q), y)
        os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""


def test_one_openmp_runtime():
    done = run(RUNTIMES)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 1, done.stdout


def test_a_forked_child_runs_on_one_thread():
    done = run(FORK)
    assert (done.returncode, done.stdout.split()) == (0, ["0"]), done.stderr
