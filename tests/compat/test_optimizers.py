"""Adam and AdamW by bitsandbytes' names: its constructors, files and overrides; #2010."""

import copy
import inspect
from types import SimpleNamespace

import bitsandbytes
import pytest
import torch
from torch import nn

import qlora_kernels as qk
import qlora_kernels.compat.bitsandbytes as bnb
from qlora_kernels.compat.bitsandbytes import optim
from qlora_kernels.formats.blockwise8 import decode
from qlora_kernels.testing.cases import generator

NAMES = [n for n in optim.__all__ if "Adam" in n]
SHAPES = {8: (64, 70), 32: (5, 7)}


@pytest.fixture(autouse=True)
def no_overrides():
    optim.GlobalOptimManager.get_instance().initialize()
    yield
    optim.GlobalOptimManager.get_instance().initialize()


def parameter(bits: int = 8, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    shape = SHAPES[bits]
    return nn.Parameter(torch.randn(shape, generator=generator(shape)).to(dtype))


def train(optimizer: torch.optim.Optimizer, steps: int = 3, start: int = 0) -> None:
    for step in range(start, start + steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                gradient = torch.randn(p.shape, generator=generator((step, *p.shape)))
                p.grad = gradient.bfloat16().to(p.dtype)  # so that 16 bits see the same
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_signatures_and_defaults_are_theirs(name: str):
    mine, theirs = (inspect.signature(getattr(m.optim, name)) for m in (bnb, bitsandbytes))
    for argument in theirs.parameters.values():
        assert mine.parameters[argument.name].default == argument.default
    more = list(mine.parameters)[len(theirs.parameters) :]
    assert list(mine.parameters) == [*theirs.parameters, *more] and more == ["older"]


@pytest.mark.parametrize("name", NAMES)
def test_bits_and_pages_are_those_of_the_name(name: str):
    optimizer = getattr(optim, name)([parameter()])
    assert isinstance(optimizer, qk.optim.AdamW)
    assert optimizer.settings.bits == (8 if "8bit" in name else 32)
    assert optimizer.settings.paged == optimizer.is_paged == ("Paged" in name)
    assert optimizer.defaults["weight_decay"] == (1e-2 if "AdamW" in name else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_32_bit_steps_are_those_of_torch(dtype: torch.dtype):
    """bitsandbytes #2010: decay comes before the update, on every device."""
    for mine, torchs in ((optim.AdamW, torch.optim.AdamW), (optim.Adam, torch.optim.Adam)):
        p, q = parameter(8, dtype), parameter(8, dtype)
        decay = {} if torchs is torch.optim.Adam else {"weight_decay": 0.5}
        train(mine([p], lr=0.1, **decay))
        q = nn.Parameter(q.detach().float())
        reference = torchs([q], lr=0.1, **decay, fused=True)
        for step in range(3):
            train(reference, 1, step)
            q.data = q.data.to(dtype).float()  # a parameter without master is rounded every step
        assert torch.equal(p, q.to(dtype))


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_go_both_ways(bits: int, dtype: torch.dtype):
    p, peer = parameter(bits, dtype), parameter(bits, dtype)
    mine, theirs = optim.AdamW8bit([p]), bitsandbytes.optim.AdamW8bit([peer])
    train(mine)
    train(theirs)
    written, other = mine.state_dict()["state"][0], theirs.state_dict()["state"][0]
    assert written.keys() == other.keys() and written["step"] == other["step"] == 3
    assert isinstance(written["step"], int)
    [(key, parts)] = [(k, v) for k, v in other.items() if isinstance(v, dict)]
    assert written[key].keys() == parts.keys()
    assert all(written[key][n].dtype == parts[n].dtype for n in parts)
    assert all(written[key][n].shape == parts[n].shape for n in parts)

    theirs.load_state_dict(mine.state_dict())
    train(theirs, 1, 3)
    fresh = optim.AdamW8bit([q := parameter(bits, dtype)], lr=0.5)
    fresh.load_state_dict(before := theirs.state_dict())
    assert fresh.param_groups[0]["lr"] == 1e-3
    parts = before["state"][0][key]
    assert fresh.state[q]["step"] == 4
    assert all(torch.equal(fresh.state[q][name], part) for name, part in parts.items())


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit", "PagedAdamW8bit"])
@pytest.mark.parametrize("duplicate", ["state dict", "deepcopy"])
def test_training_goes_on_from_a_copy_with_the_same_bits(name: str, duplicate: str):
    p = parameter()
    optimizer = getattr(optim, name)([p])
    train(optimizer)
    if duplicate == "deepcopy":
        other = copy.deepcopy(optimizer)
        [q] = other.param_groups[0]["params"]
        assert (other.args, other.is_paged) == (optimizer.args, optimizer.is_paged)
    else:
        q = nn.Parameter(p.detach().clone())
        other = getattr(optim, name)([q])
        other.load_state_dict(optimizer.state_dict())
    train(optimizer, 2, 3)
    train(other, 2, 3)
    assert torch.equal(p, q) and p is not q


def test_what_qk_wrote_is_read():
    p, q = parameter(), parameter()
    ours = qk.optim.AdamW([p], bits=8)
    train(ours)
    q.data.copy_(p)
    theirs = optim.AdamW8bit([q])
    theirs.load_state_dict(ours.state_dict())
    train(ours, 1, 3)
    train(theirs, 1, 3)
    assert torch.equal(p, q)


def test_states_answer_to_both_names():
    for optimizer in (optim.AdamW8bit([p := parameter()]), optim.AdamW([q := parameter()])):
        train(optimizer)
        [state] = optimizer.state.values()
        assert state["state1"] is state["exp_avg"] and state["state2"] is state["exp_avg_sq"]
        with pytest.raises(KeyError):
            state["state3"]
    small = optim.AdamW8bit([r := parameter(32)])
    train(small)
    eight = optim.Adam([s := parameter(32)], optim_bits=8, min_8bit_size=10)
    train(eight)
    assert small.state[r]["state1"].dtype == torch.float32
    assert eight.state[s]["state1"].dtype == torch.uint8
    assert p.shape == q.shape


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("Paged")])
def test_paged_states_answer_too(name: str):
    """bitsandbytes' own tests read `state[p]["state1"]`, whatever is paged."""
    unpaged, paged = getattr(optim, name.removeprefix("Paged")), getattr(optim, name)
    first, second = unpaged([p := parameter()]), paged([q := parameter(), r := parameter()])
    r.requires_grad_(False)
    for step in range(2):
        train(first, 1, step)
        q.grad = p.grad
        second.step()
        names = ["state1", "state2", "exp_avg", "exp_avg_sq"]
        names += ["absmax1", "absmax2", "qmap1", "qmap2"] if "8bit" in name else []
        for part in names:
            assert torch.equal(first.state[p][part], second.state[q][part]), part
    for other in (copy.deepcopy(second), second):
        other.load_state_dict(second.state_dict())
        q = other.param_groups[0]["params"][0]
        assert torch.equal(first.state[p]["state1"], other.state[q]["state1"])
    with pytest.raises(KeyError):
        second.state[q]["state3"]
    with pytest.raises(KeyError):
        second.state[r]["state1"]  # it had no gradient


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit"])
def test_8_bit_states_decode_by_their_maps(name: str):
    optimizer = getattr(optim, name)([p := parameter()])
    train(optimizer)
    state = optimizer.state[p]
    for i, signed in ((1, True), (2, False)):
        codes, absmax, code = (state[f"{part}{i}"] for part in ("state", "absmax", "qmap"))
        values = bnb.functional.dequantize_blockwise(codes, absmax=absmax, code=code, blocksize=256)
        assert torch.equal(values.view(-1), decode(codes.view(-1), absmax, signed))


def test_states_of_another_map_are_refused_unless_it_differs_in_last_bits_alone():
    optimizer = optim.AdamW8bit([p := parameter()])
    train(optimizer)
    codes = optimizer.state[p]["state1"].clone()
    for scale, is_read in ((1 + 1e-7, True), (1 + 1e-4, False)):
        stored = copy.deepcopy(optimizer.state_dict())
        parts = stored["state"][0]["__bnb_optimizer_quant_state__"]
        assert not torch.equal(parts["qmap1"] * scale, parts["qmap1"])
        parts["qmap1"] *= scale
        other = optim.AdamW8bit([q := parameter()])
        if is_read:
            other.load_state_dict(stored)
            assert torch.equal(other.state[q]["state1"], codes)
        else:
            with pytest.raises(ValueError, match="qmap1 should be the dynamic map, was another"):
                other.load_state_dict(stored)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("storage", [torch.uint8, torch.float32])
def test_packed_weights_among_the_parameters_stay_as_they_are(name: str, storage: torch.dtype):
    """`optim.AdamW(model.parameters())`: scripts do not take the frozen ones out."""
    model = bnb.nn.LinearNF4(64, 64, quant_storage=storage).to("cpu")
    codes, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = getattr(optim, name)(model.parameters(), lr=0.1)
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight.view(torch.uint8), codes.view(torch.uint8))
    assert not torch.equal(model.bias, bias)
    optimizer.load_state_dict(optimizer.state_dict())
    assert model.weight not in optimizer.state and optimizer.state[model.bias]["step"] == 1


def test_overrides_hold_for_single_parameters_before_and_after_registering():
    manager = optim.GlobalOptimManager.get_instance()
    first, second, third, fourth = (parameter() for _ in range(4))
    manager.override_config(first, "optim_bits", 8)
    manager.register_parameters([first, second, third, fourth])
    manager.override_config([second, third], key_value_dict={"lr": 0.0, "weight_decay": 0.0})
    optimizer = optim.Adam([first, second, third, fourth], lr=0.1)
    before = second.detach().clone()
    train(optimizer)
    assert optimizer.state[first]["state1"].dtype == torch.uint8
    assert optimizer.state[second]["state1"].dtype == torch.float32
    assert torch.equal(second, before) and torch.equal(third, before)
    assert not torch.equal(fourth, before)
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["lr"] == 0.1


def test_overrides_hold_for_loaded_states():
    for_file = optim.Adam([parameter()])
    train(for_file)
    optimizer = optim.Adam([p := parameter()])
    optim.GlobalOptimManager.get_instance().override_config(p, "optim_bits", 8)
    optimizer.load_state_dict(for_file.state_dict())
    assert optimizer.state[p]["state1"].dtype == torch.uint8
    train(optimizer, 1, 3)


def test_hooks_are_called_once():
    train(qk.optim.AdamW([parameter()]))
    optimizer, calls = optim.AdamW8bit([parameter()]), []
    optimizer.register_step_post_hook(lambda *_: calls.append(None))
    train(optimizer, 1)
    assert len(calls) == 1


def test_overrides_of_modules():
    for made in (bnb.nn.StableEmbedding(80, 64), bnb.nn.Embedding(80, 64)):
        optimizer = optim.AdamW8bit([made.weight, p := parameter()])
        train(optimizer)
        assert optimizer.state[made.weight]["state1"].dtype == torch.float32
        assert optimizer.state[p]["state1"].dtype == torch.uint8


def test_overrides_of_parameters_that_are_gone_are_forgotten():
    manager = optim.GlobalOptimManager.get_instance()
    manager.override_config(parameter(), "lr", 1.0)
    assert manager.configs() == {}


def test_what_is_refused():
    manager = optim.GlobalOptimManager.get_instance()
    unorm = SimpleNamespace(optim_bits=32, min_8bit_size=1, max_unorm=1.0)
    for call, error, message in (
        (lambda: optim.AdamW([parameter()], lr=-1.0), ValueError, "lr should be"),
        (lambda: optim.AdamW([parameter()], betas=(1.0, 0.9)), ValueError, "betas should be"),
        (lambda: optim.AdamW([parameter()], optim_bits=16), ValueError, "bits should be"),
        (lambda: optim.AdamW8bit([parameter()], amsgrad=True), ValueError, "amsgrad should be"),
        (lambda: optim.AdamW8bit([parameter()], optim_bits=8), ValueError, "optim_bits should be"),
        (lambda: optim.Adam([parameter()], args=unorm), NotImplementedError, "max_unorm should"),
        (
            lambda: optim.Adam([parameter()], percentile_clipping=5),
            NotImplementedError,
            "percentile_clipping should be 100, was 5",
        ),
        (lambda: optim.Adam([parameter()], momentum=1), TypeError, "unexpected keyword"),
        (lambda: optim.PagedAdamW([parameter()], is_paged=True), TypeError, "unexpected keyword"),
        (lambda: optim.Lion8bit([parameter()]), NotImplementedError, "Lion8bit is not provided"),
        (lambda: bnb.nn.Linear8bitLt(4, 4), NotImplementedError, "Linear8bitLt is not provided"),
        (lambda: bnb.matmul(1, 2), NotImplementedError, "matmul is not provided"),
        (
            lambda: manager.override_config([], "alpha", 1),
            ValueError,
            "should be one of optim_bits",
        ),
        (lambda: optim.GlobalOptimManager(), RuntimeError, "get_instance"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_args_replace_the_arguments_and_older_defaults_are_taken():
    args = SimpleNamespace(optim_bits=8, min_8bit_size=10)
    optimizer = optim.Adam([p := parameter(32)], args=args, percentile_clipping=100)
    train(optimizer)
    assert optimizer.state[p]["state1"].dtype == torch.uint8 and optimizer.args.optim_bits == 8
