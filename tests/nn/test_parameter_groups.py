"""Groups for an optimizer: every adapter parameter once, at the rate and decay that it should."""

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, parameter_groups


def prepared(**options: object) -> nn.Module:
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 32))
    return qk.prepare_model(model, QLoRAConfig(rank=4, **options))


@pytest.mark.parametrize("dora", [False, True])
def test_each_parameter_is_in_one_group(dora: bool):
    model = prepared(dora=dora)
    groups = parameter_groups(adapter_parameters(model), 1e-3, lora_plus_ratio=16, weight_decay=0.1)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in adapter_parameters(model).values())
    told = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    expected = {"weights": (1e-3, 0.1), "lora_b": (16e-3, 0.1), "undecayed": (1e-3, 0.0)}
    assert told == {name: expected[name] for name in told} and len(told) == 2 + dora


def test_lora_plus_moves_b_by_its_ratio():
    """Adam's first step is the rate times a sign."""
    model = prepared(dora=True)
    for layer in model:
        nn.init.normal_(layer.lora_b)
    before = {n: p.detach().clone() for n, p in adapter_parameters(model).items()}
    model(torch.randn(8, 32)).square().sum().backward()
    torch.optim.AdamW(parameter_groups(adapter_parameters(model), 1e-3, lora_plus_ratio=4)).step()
    for name, parameter in adapter_parameters(model).items():
        moved = (parameter - before[name]).abs().median()
        rate = 4e-3 if name.endswith("lora_b") else 1e-3
        torch.testing.assert_close(moved, torch.tensor(rate), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", ["lr", "lora_plus_ratio", "weight_decay"])
def test_a_negative_number_is_refused(name: str):
    with pytest.raises(qk.InputError, match=rf"^parameter_groups: {name} should be 0 or more"):
        parameter_groups(adapter_parameters(prepared()), **{"lr": 1e-3, name: -1.0})


def test_nothing_to_train_is_refused():
    with pytest.raises(qk.InputError, match="parameters should be some, were none"):
        parameter_groups({}, 1e-3)


def test_layers_have_rates_of_their_own():
    """The first part that is in a name counts, and only whole parts between dots."""
    parameters = adapter_parameters(prepared())
    groups = parameter_groups(parameters, 1e-3, lora_plus_ratio=4, multipliers={"0": 0.5, "1": 2})
    rates = {g["name"]: g["lr"] for g in groups}
    assert rates == {
        "weights x0.5": 0.5e-3,
        "weights x2": 2e-3,
        "lora_b x0.5": 2e-3,
        "lora_b x2": 8e-3,
    }
    with pytest.raises(qk.InputError, match="parameter_groups: 'lora' should be part of a name"):
        parameter_groups(parameters, 1e-3, multipliers={"lora": 2.0})
    with pytest.raises(qk.InputError, match="the multiplier of 0 should be 0 or more, was -1"):
        parameter_groups(parameters, 1e-3, multipliers={"0": -1.0})


def test_vectors_never_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    groups = parameter_groups(dict(model.named_parameters()), 1e-3, weight_decay=0.1)
    decayed = [p for g in groups if g["weight_decay"] for p in g["params"]]
    assert [p is model[0].weight for p in decayed] == [True]
