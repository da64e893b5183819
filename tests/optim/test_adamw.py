"""qk.optim.AdamW as an optimizer: torch's bits, torch's protocols, and nothing half done."""

import copy

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.testing.error_rule import ErrorRule

SHAPES = ((37, 50), (5000,), (3,), (1, 257), ())


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Some of any size; one starts at zero, as an adapter's B does."""
    made = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    with torch.no_grad():
        made[0].zero_()
    return made


def copies(of: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in of]


def give_gradients(*lists: list[nn.Parameter], scale: float = 1.0) -> None:
    """The same to each list, over many orders of magnitude."""
    for same in zip(*lists, strict=True):
        gradient = torch.randn(same[0].shape) * torch.randn(same[0].shape).exp()
        for parameter in same:
            parameter.grad = (gradient * scale).to(parameter.dtype)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


def fused(parameters: list[nn.Parameter], **settings: object) -> torch.optim.AdamW:
    """torch's one-pass implementation; its unfused one takes MKL's square root, which may err."""
    return torch.optim.AdamW(parameters, **settings, fused=True)


SETTINGS = (
    {"lr": 3e-3, "weight_decay": 0.1},
    {"lr": 3e-3, "weight_decay": 0.0, "betas": (0.3, 0.99)},  # lerp from the other end
)


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_200_steps_are_torchs_bits(settings: dict[str, object]):
    """Where no vector is short: the rest of one torch computes in double."""
    ours = [nn.Parameter(torch.zeros(4096)), nn.Parameter(torch.randn(3, 64))]
    theirs = copies(ours)
    a, b = qk.optim.AdamW(ours, **settings), fused(theirs, **settings)
    for _ in range(200):
        give_gradients(ours, theirs)
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(a.state[p][name], b.state[q][name]), name


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_steps_of_any_size_keep_the_error_rule(settings: dict[str, object]):
    """Each from torch's own state; truth is the formula in float64."""
    ours = parameters()
    theirs = copies(ours)
    a, b = qk.optim.AdamW(ours, **settings), fused(theirs, **settings)
    rule = ErrorRule(torch.float32)
    for step in range(50):
        give_gradients(ours, theirs)
        before = [(p.detach().double(), *moments(b, p)) for p in theirs]
        a.step()
        b.step()
        for start, p, q in zip(before, ours, theirs, strict=True):
            rule.add(f"{step} {tuple(p.shape)}", "p", p.detach(), q.detach(), truth(b, q, *start))
            p.data.copy_(q)
            for name in ("exp_avg", "exp_avg_sq"):
                a.state[p][name].copy_(b.state[q][name])
    rule.check()


def moments(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> tuple[torch.Tensor, ...]:
    zero = torch.zeros_like(p, dtype=torch.float64)
    state = optimizer.state[p]
    return tuple(state[n].double() if state else zero for n in ("exp_avg", "exp_avg_sq"))


def truth(
    optimizer: torch.optim.Optimizer,
    parameter: nn.Parameter,
    p: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
) -> torch.Tensor:
    """The step that was just made from p, m, v."""
    group, t = optimizer.param_groups[0], optimizer.state[parameter]["step"].item()
    g, (beta1, beta2), lr = parameter.grad.double(), group["betas"], group["lr"]
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    denominator = (v / (1 - beta2**t)).sqrt() + group["eps"]
    return p * (1 - lr * group["weight_decay"]) - lr * m / (1 - beta1**t) / denominator


def test_a_16_bit_parameter_follows_its_master():
    ours, wide = (base := parameters(torch.bfloat16)), [nn.Parameter(p.float()) for p in base]
    a, b = qk.optim.AdamW(ours, lr=1e-5), qk.optim.AdamW(wide, lr=1e-5)
    for _ in range(20):
        give_gradients(ours, wide)
        for p, q in zip(ours, wide, strict=True):
            q.grad = p.grad.float()
        a.step()
        b.step()
    for p, q in zip(ours, wide, strict=True):
        assert torch.equal(a.state[p]["master"], q) and torch.equal(p, q.bfloat16())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_bad_gradient_changes_nothing(bad: float):
    ours = parameters()
    optimizer = qk.optim.AdamW(ours, bits=8)
    for step in range(3):
        give_gradients(ours)
        if step == 1:
            before = copy.deepcopy((ours, dict(optimizer.state)))
            ours[-2].grad[0, -1] = bad
        optimizer.step()
        if step == 1:
            for p, q in zip(ours, before[0], strict=True):
                assert torch.equal(p, q)
                for name, tensor in before[1][q].items():
                    assert torch.equal(optimizer.state[p][name], tensor), name
    assert optimizer.skipped_steps == 1
    assert [optimizer.state[p]["step"].item() for p in ours] == [2] * len(ours)


def test_clipping_is_torchs():
    ours, theirs = (base := parameters()), copies(base)
    a = qk.optim.AdamW(ours, max_gradient_norm=0.5, eps=1e-3)
    b = torch.optim.AdamW(theirs, eps=1e-3)
    for _ in range(5):
        give_gradients(ours, theirs)
        nn.utils.clip_grad_norm_(theirs, 0.5)
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)


def test_a_state_is_8_bit_from_4096_elements():
    small, large = nn.Parameter(torch.ones(4095)), nn.Parameter(torch.ones(64, 64))
    optimizer = qk.optim.AdamW([small, large], bits=8)
    give_gradients([small, large])
    optimizer.step()
    assert optimizer.state[small]["exp_avg"].dtype == torch.float32
    assert optimizer.state[large]["exp_avg"].dtype == torch.uint8
    assert optimizer.state[large]["exp_avg_sq_absmax"].shape == (16,)


def test_a_small_second_moment_is_not_lost():
    """Elements far below their block's largest move by at most the rate in a step whose gradient
    is exactly 0 there, where a second moment of 0 would divide by eps alone."""
    lr, size = 1e-3, 4096
    parameter = nn.Parameter(torch.zeros(size))
    optimizer = qk.optim.AdamW([parameter], lr=lr, bits=8, weight_decay=0.0)
    gradient = torch.full((size,), 1e-4)  # its square is 1e-8 of the largest
    gradient[::256] = 1.0
    moved = []
    for g in (gradient, gradient * (gradient == 1), gradient):
        before, parameter.grad = parameter.detach().clone(), g
        optimizer.step()
        moved.append((parameter.detach() - before).abs().max().item())
    state = optimizer.state[parameter]
    assert (state["exp_avg_sq"] > 0).all() and (state["exp_avg"] != 127).all()
    assert max(moved) <= lr * 1.01
    zero = nn.Parameter(torch.zeros(size))
    optimizer.add_param_group({"params": [zero]})
    zero.grad = torch.zeros(size)
    zero.grad[0] = 1.0
    optimizer.step()
    assert (optimizer.state[zero]["exp_avg_sq"][1:] == 0).all()


def test_copies_and_pickles_go_on_alone():
    model = nn.Linear(70, 70)
    optimizer = qk.optim.AdamW(model.parameters(), bits=8, max_gradient_norm=1.0)
    give_gradients(list(model.parameters()))
    optimizer.step()
    twin_model, twin = copy.deepcopy((model, optimizer))
    assert twin.settings == optimizer.settings
    give_gradients(list(model.parameters()), list(twin_model.parameters()))
    before = twin_model.weight.detach().clone()
    optimizer.step()
    assert torch.equal(twin_model.weight, before)
    twin.step()
    assert torch.equal(twin_model.weight, model.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4}, "AdamW: bits should be one of 32, 8, was 4"),
        ({"maximise": True}, "AdamW: 'maximise' is no argument (known are "),
        ({"max_grad_norm": 1.0}, "AdamW: 'max_grad_norm' is no argument (did you mean max_gradie"),
        ({"max_gradient_norm": 0.0}, "AdamW: max_gradient_norm should be above 0, was 0.0"),
        ({"lr": -1.0}, "AdamW: lr should be 0 or more, was -1.0"),
        ({"betas": (0.9, 1.0)}, r"AdamW: betas should be in [0, 1), were (0.9, 1.0)"),
        ({"betas": (0.9,)}, "AdamW: betas should be two, were (0.9,)"),
        ({"max_gradient_norm": "1"}, "AdamW: max_gradient_norm should be above 0, was '1'"),
        ({"min_quantized_size": 4e3}, "AdamW: min_quantized_size should be a size, was 4000.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str):
    with pytest.raises(qk.InputError) as error:
        qk.optim.AdamW(parameters(), **options)
    assert str(error.value).startswith(message)


def test_a_grad_scaler_scales_and_skips():
    """Its scale is undone in the step, which leaves the gradients as they are."""
    ours, theirs = (base := parameters()), copies(base)
    a, b = qk.optim.AdamW(ours), qk.optim.AdamW(theirs)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for bad in (False, True, False):
        scaler.scale(torch.ones(()))  # makes the scale
        give_gradients(theirs)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad * scaler.get_scale()
        if bad:
            ours[1].grad[0] = torch.inf
        else:
            b.step()
        scaler.step(a)
        scaler.update()
    assert scaler.get_scale() == 2.0**9 and a.skipped_steps == 1
    assert all(map(torch.equal, ours, theirs))


def test_closures_schedulers_and_late_groups():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = qk.optim.AdamW([first], lr=1.0, weight_decay=0.0)
    optimizer.add_param_group({"params": [second], "lr": 0.5, "bits": 8})
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = first.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0
    assert second not in optimizer.state and torch.equal(second, torch.ones(3))
    torch.testing.assert_close(first.detach(), torch.zeros(3))  # a first step is the rate
    schedule.step()
    second.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(second.detach(), torch.full((3,), 0.95))
    with pytest.raises(qk.InputError, match="bits should be one of 32, 8, was 16"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "bits": 16})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("parameter", "numbers", "message"),
    [
        (torch.ones(3, dtype=torch.float64), {}, "a parameter should be float32 or"),
        (torch.ones(3, 2).t(), {}, "a parameter should be contiguous"),
        (torch.ones(3), {"maximize": True}, "maximize of a group should be False"),
    ],
)
def test_a_group_that_is_refused_is_not_there(parameter, numbers, message):
    optimizer = qk.optim.AdamW(parameters())
    with pytest.raises(qk.InputError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(parameter)], **numbers})
    assert len(optimizer.param_groups) == 1


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_twice_is_refused():
    """Two threads would update it at once; torch warns that it will refuse it too."""
    tied = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(qk.InputError, match=r"should be in a group once, was twice, \[3, 2\]"):
        qk.optim.AdamW([tied, tied])


@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_avg_sq"])
def test_a_state_that_is_replaced_is_the_one_that_is_updated(name: str):
    parameter = nn.Parameter(torch.ones(300))
    optimizer = qk.optim.AdamW([parameter])
    parameter.grad = torch.ones(300)
    optimizer.step()
    state = optimizer.state[parameter]
    once = state[name].clone()
    state[name] = torch.zeros_like(once)
    optimizer.step()
    torch.testing.assert_close(state[name], once)


@pytest.mark.parametrize("paged", [False, True])
def test_a_strided_gradient_is_taken_in_the_parameters_order(paged: bool):
    gradient = torch.randn(60, 100)
    ours, theirs = (nn.Parameter(torch.ones(60, 100)) for _ in range(2))
    ours.grad, theirs.grad = gradient.t().contiguous().t(), gradient
    assert not ours.grad.is_contiguous()
    for parameter in (ours, theirs):
        qk.optim.AdamW([parameter], bits=8, paged=paged).step()
    assert torch.equal(ours, theirs)
