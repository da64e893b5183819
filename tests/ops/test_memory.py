"""No dense copy of W: neither kept for backward nor, in the native kernels, made on the way."""

import subprocess
import sys
from dataclasses import replace

import torch

import qlora_kernels as qk
from ops.linear_formula import op, with_leaves
from qlora_kernels.testing.cases import LinearCase, linear_problem

PROBLEM = linear_problem(LinearCase(4, 96, 256, rank=4, bias=True, dropout=0.1), torch.float32)


def bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


SEED_BYTES = 8
ADAPTER_BYTES = bytes_of(PROBLEM.adapter.a) + bytes_of(PROBLEM.adapter.b)
HELD_ANYWAY = PROBLEM.q.nbytes + ADAPTER_BYTES + SEED_BYTES


def saved_storages(run: object) -> dict[int, int]:
    """Storage -> bytes of all that the graph keeps for backward."""
    saved = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = run()
        assert not any(isinstance(c, torch.Tensor) for c in y.grad_fn.constants), (
            "hidden from hooks"
        )
    return saved


def test_backward_keeps_x_the_codes_and_the_adapter(backend: str):
    problem, _ = with_leaves(PROBLEM)
    saved = saved_storages(lambda: op(problem))
    assert sum(saved.values()) == bytes_of(problem.x) + HELD_ANYWAY
    assert problem.q.codes.untyped_storage().data_ptr() in saved, "the codes themselves, no copy"


def test_a_frozen_adapter_does_not_keep_x(backend: str):
    """Below the last trained layer only dx is wanted, and that reads no x."""
    x = PROBLEM.x.clone().requires_grad_()
    saved = saved_storages(lambda: op(replace(PROBLEM, x=x)))
    assert x.untyped_storage().data_ptr() not in saved
    assert sum(saved.values()) == x.element_size() + HELD_ANYWAY


def test_a_base_without_adapter_keeps_its_codes_only(backend: str):
    x = PROBLEM.x.clone().requires_grad_()
    saved = saved_storages(lambda: qk.qlora_linear(x, PROBLEM.q))
    assert sum(saved.values()) == PROBLEM.q.nbytes + x.element_size()


def test_inference_keeps_nothing(backend: str):
    with torch.no_grad():
        assert not op(with_leaves(PROBLEM)[0]).requires_grad
    assert not op(PROBLEM).requires_grad, "no input wants a gradient"


PEAK = """
import sys, torch, qlora_kernels as qk

def peak_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith("VmHWM")) * 1024

n = k = 8192
codes = torch.randint(256, (n * k // 2, 1), dtype=torch.uint8)
scales = torch.full((n * k // 64,), 0.01)
q = qk.QuantizedTensor(codes, scales, None, None, (n, k), torch.float32, "nf4", 64)
a, b = torch.zeros(8, k, requires_grad=True), torch.zeros(n, 8, requires_grad=True)
x = torch.ones(4, k, requires_grad=True)
small = qk.quantize(torch.ones(64, 64))
warm_up = qk.qlora_linear(torch.ones(4, 64, requires_grad=True), small).sum().backward()
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts again from here
before = peak_bytes()
with qk.use_backend("cpu"):
    qk.qlora_linear(x, q, qk.Adapter(a, b, 1.0)).sum().backward()
print((peak_bytes() - before) / (n * k * x.element_size()))
"""


def test_the_native_kernels_never_hold_w():
    """Forward and backward of an 8192 x 8192 layer: the peak rises by a sliver of dense W."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1 / 16, f"peak rose by {done.stdout} of a dense float32 W"
