"""A layer's arguments are kept while its parts are the same, and hold no memory beyond them."""

import copy
import sys
import threading
from weakref import ref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from qlora_kernels.nn import QLoRAConfig, QLoRALinear
from qlora_kernels.nn.kept_linear import KeptLinear


@pytest.fixture
def layer() -> QLoRALinear:
    made = QLoRALinear.from_linear(nn.Linear(64, 48), QLoRAConfig(rank=4))
    nn.init.normal_(made.lora_b)
    return made


X = torch.randn(3, 64)


def test_the_same_parts_are_made_once(layer: QLoRALinear):
    made: list[object] = []
    kept, parts = KeptLinear(), (layer.lora_a, 0.5)
    linears = [kept.of(parts, lambda: made.append(None) or object()) for _ in range(4)]
    assert len(made) == 2 and linears[1] is linears[2] is linears[3]


def test_memory_of_parts_that_come_and_go_is_free(layer: QLoRALinear):
    """As offloading does: other tensors before each call, none after it."""
    home = layer.weight.detach()
    for _ in range(3):
        layer.weight = nn.Parameter(home.clone(), requires_grad=False)
        layer(X)
        gathered = ref(layer.weight)
        layer.weight = nn.Parameter(home.to("meta"), requires_grad=False)
        assert gathered() is None


@pytest.mark.parametrize("calls", [1, 3])
def test_torch_may_swap_the_parameters(layer: QLoRALinear, calls: int):
    """torch swaps only tensors that nobody refers to weakly."""
    layer.requires_grad_(False)
    for _ in range(calls):
        expected = layer(X)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.to(torch.bfloat16)
        layer.load_state_dict(layer.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert layer(X).sub(expected).norm() < 0.01 * expected.norm()  # its bias is bfloat16


def test_a_parametrized_factor_counts_at_each_call(layer: QLoRALinear):
    class Double(nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return 2 * value

    other = copy.deepcopy(layer)
    parametrize.register_parametrization(layer, "lora_b", Double())
    with torch.no_grad():
        for factor in (2.0, 2.0, 3.0):
            layer.parametrizations.lora_b.original.mul_(factor)
            other.lora_b.copy_(layer.lora_b)
            assert torch.equal(layer(X), other(X))


def test_threads_that_share_what_is_kept_get_their_own():
    """Replicas of a layer run in threads of one process, and share its attributes."""
    kept = KeptLinear()
    wrong: list[object] = []

    def run(own: torch.Tensor) -> None:
        for _ in range(10_000):
            linear = kept.of((own, 0.5), lambda: own)
            if linear is not own:
                wrong.append(linear)

    threads = [threading.Thread(target=run, args=(torch.ones(1),)) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
