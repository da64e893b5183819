"""State dicts: exact for what an optimizer keeps, converted by one rule for what it does not."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.formats.blockwise8 import decode, encode

SHAPES = ((60, 100), (5000,), (3,))
ADAMW = {"lr": 3e-3, "betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.1}


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(5)
    return [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def ours(dtype: torch.dtype = torch.float32, **options) -> qk.optim.AdamW:
    return qk.optim.AdamW(parameters(dtype), **{**ADAMW, **options})


def members(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def train(optimizer: torch.optim.Optimizer, steps: int = 3, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in members(optimizer):
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def continued(first: torch.optim.Optimizer, second: torch.optim.Optimizer, state_dict) -> None:
    """`second` takes the weights and the state of `first`."""
    with torch.no_grad():
        for theirs, mine in zip(members(first), members(second), strict=True):
            mine.copy_(theirs)
    second.load_state_dict(state_dict)


def same_weights(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    return all(map(torch.equal, members(one), members(other)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [32, 8])
def test_what_is_kept_the_same_way_is_exact(bits, dtype, tmp_path):
    """Through a file. torch's own loading would round moments and scales to bfloat16."""
    first, second = ours(dtype, bits=bits), ours(dtype, bits=bits)
    train(first)
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    continued(first, second, torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for p, q in zip(members(first), members(second), strict=True):
        assert first.state[p].keys() == second.state[q].keys()
        assert all(torch.equal(first.state[p][n], second.state[q][n]) for n in first.state[p])
        assert all(first.state[p][n].dtype == second.state[q][n].dtype for n in first.state[p])
    train(first, seed=1)
    train(second, seed=1)
    assert same_weights(first, second)


@pytest.mark.parametrize("paged", [False, True])
def test_8_bits_to_32_decodes_and_back_encodes(paged):
    narrow, wide = ours(bits=8), ours(bits=32, paged=paged)
    train(narrow)
    continued(narrow, wide, narrow.state_dict())
    stored, found = narrow.state_dict()["state"][0], wide.state_dict()["state"][0]
    expected = decode(stored["exp_avg"].view(-1), stored["exp_avg_absmax"], signed=True)
    assert torch.equal(found["exp_avg"].view(-1), expected)
    assert found.keys() == {"step", "exp_avg", "exp_avg_sq"}
    train(wide)
    again = ours(bits=8, paged=paged)
    continued(wide, again, wide.state_dict())
    stored, found = wide.state_dict()["state"][1], again.state_dict()["state"][1]
    codes, absmax = encode(stored["exp_avg_sq"], signed=False)
    assert torch.equal(found["exp_avg_sq"], codes)
    assert torch.equal(found["exp_avg_sq_absmax"], absmax)
    assert again.param_groups[0]["bits"] == 8


def test_from_torch_and_to_torch():
    """Its unfused step takes square roots that may err in the last bit."""
    theirs, mine = torch.optim.AdamW(parameters(), **ADAMW), ours(lr=1.0)
    train(theirs)
    continued(theirs, mine, theirs.state_dict())
    assert mine.param_groups[0]["lr"] == ADAMW["lr"]
    train(theirs, seed=1)
    train(mine, seed=1)
    torch.testing.assert_close(members(theirs), members(mine))
    back = torch.optim.AdamW(parameters(), **ADAMW)
    continued(mine, back, qk.optim.as_32_bit(mine.state_dict()))
    train(back, seed=2)
    train(mine, seed=2)
    torch.testing.assert_close(members(back), members(mine))


def test_8_bit_states_for_torch_are_decoded():
    mine, theirs = ours(bits=8), torch.optim.AdamW(parameters(), **ADAMW)
    train(mine)
    continued(mine, theirs, qk.optim.as_32_bit(mine.state_dict()))
    stored = mine.state[members(mine)[0]]
    expected = decode(stored["exp_avg"].view(-1), stored["exp_avg_absmax"], signed=True)
    assert torch.equal(theirs.state[members(theirs)[0]]["exp_avg"].view(-1), expected)
    train(theirs)


def test_masters_come_from_the_file_or_from_the_parameter():
    kept, plain = ours(torch.bfloat16), ours(torch.bfloat16, master_weights=False)
    train(kept)
    continued(kept, plain, kept.state_dict())
    assert all("master" not in plain.state[p] for p in members(plain))
    train(plain, 1)
    made = ours(torch.bfloat16)
    continued(plain, made, plain.state_dict())
    assert all(torch.equal(made.state[p]["master"], p.float()) for p in members(made))


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s["state"][1].pop("exp_avg"),
            "state of parameter 1 should have exp_avg, has st",
        ),
        (
            lambda s: s["state"][0].update(exp_avg=torch.zeros(100, 60)),
            r"exp_avg of parameter 0 should be \[60, 100\], was \[100, 60\]",
        ),
        (
            lambda s: s["state"][0].update(exp_avg_absmax=torch.zeros(3)),
            r"exp_avg_absmax of parameter 0 should be \[24\], was \[3\]",
        ),
        (
            lambda s: s["state"][0].update(max_exp_avg_sq=torch.zeros(60, 100)),
            "state of parameter 0 should come without amsgrad",
        ),
        (lambda s: s["param_groups"][0].update(maximize=True), "maximize of group 0 should be Fal"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(spoil, message, paged):
    source, optimizer = ours(bits=8), ours(bits=8, paged=paged)
    train(source)
    train(optimizer, seed=3)
    before = copy.deepcopy(optimizer.state_dict())
    spoiled = copy.deepcopy(source.state_dict())
    spoil(spoiled)
    with pytest.raises(qk.InputError, match=message):
        optimizer.load_state_dict(spoiled)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        assert all(torch.equal(state[n], after["state"][number][n]) for n in state)


def test_groups_that_do_not_match_are_torchs_to_refuse():
    with pytest.raises(ValueError, match="different number of parameter groups"):
        ours().load_state_dict({"state": {}, "param_groups": []})


def test_hooks_are_called_once_with_everything():
    first, second, seen = ours(bits=8), ours(bits=8), []
    train(first)
    second.register_load_state_dict_pre_hook(lambda o, s: seen.append(len(s["state"])))
    second.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)))
    second.load_state_dict(first.state_dict())
    assert seen == [3, 3]
    second.load_state_dict(first.state_dict())
    assert seen == [3, 3, 3, 3]


def test_paged_states_are_mapped_from_a_file(tmp_path):
    """So a state dict takes no memory that the system could not take back."""
    optimizer = ours(bits=8, paged=True, memory_budget=9000, page_file=tmp_path)
    train(optimizer)
    states = optimizer.state_dict()["state"]
    places = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(tmp_path) in line
    ]
    for state in states.values():
        for name, tensor in state.items():
            mapped = any(start <= tensor.data_ptr() < end for start, end in places)
            assert mapped == (name != "step")
    assert list(tmp_path.iterdir()) == []
