"""Importance is the mean square of each input; weighing by it lowers the error of outputs."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import measure_importance
from qlora_kernels.testing.cases import generator

CONFIG = qk.QLoRAConfig(format="nf4-tuned", targets=())


class Twice(nn.Module):
    """A layer that is used twice, and one that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(self.used(x).relu())


def test_it_is_the_mean_square_of_each_input():
    torch.manual_seed(0)
    model, batches = Twice().train(), [torch.randn(2, 5, 6), torch.randn(7, 6)]
    seen = []
    for batch in batches:
        seen += [batch.view(-1, 6), model.used(batch).relu().view(-1, 6)]
    expected = torch.cat(seen).double().square().mean(dim=0).float()
    found = measure_importance(model, iter(batches))
    assert found.keys() == {"used"}
    torch.testing.assert_close(found["used"], expected)
    by_name = measure_importance(model, [{"x": batch} for batch in batches])
    assert torch.equal(by_name["used"], found["used"])
    assert model.training and not model.used._forward_pre_hooks


def outlying_inputs(count: int, random: torch.Generator) -> torch.Tensor:
    """As in language models: few features are much larger than all others."""
    x = torch.randn(count, 128, generator=random)
    x[:, ::40] *= 20
    return x


def test_outputs_err_less():
    random = generator("importance")
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(128, 96), nn.SiLU(), nn.Linear(96, 64))
    x, other = outlying_inputs(256, random), outlying_inputs(256, random)
    importance = measure_importance(dense, [x])
    truth, errors = dense(other), []
    for given in (None, importance):
        model = qk.prepare_model(deepcopy(dense), CONFIG, importance=given)
        errors.append((model(other) - truth).square().mean())
    assert errors[1] < 0.6 * errors[0]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(qk.InputError, match="should hold linear layers, holds none"):
        measure_importance(nn.LayerNorm(3), [torch.randn(3)])
    with pytest.raises(qk.InputError, match="batches should reach a linear layer, reached none"):
        measure_importance(Twice(), [])
    importance = {"used": torch.ones(6)}
    for config in (qk.QLoRAConfig(targets=()), qk.QLoRAConfig(targets=(), format="int8")):
        with pytest.raises(qk.InputError, match="importance should be of layers whose scales"):
            qk.prepare_model(Twice(), config, importance=importance)
    with pytest.raises(qk.InputError, match=r"used.weight: quantize: importance should be floats"):
        qk.prepare_model(Twice(), CONFIG, importance={"used": torch.ones(5)})


def test_the_mode_of_each_module_stays():
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout()).train()
    model[1].eval()
    measure_importance(model, [torch.randn(6), torch.randn(2, 6)])
    assert model[0].training and not model[1].training


def test_an_empty_batch_tells_nothing():
    with pytest.raises(qk.InputError, match="reached none"):
        measure_importance(Twice(), [torch.randn(0, 6)])
