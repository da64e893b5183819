"""Against gradients that autograd makes of a dense weight, and float64 projections."""

import pytest
import torch

import qlora_kernels as qk
from qlora.doctor.gradient_products import gradient_products
from qlora.doctor.gradients import LayerGradient, layer_gradients, outside, probes, update_spans
from qlora.doctor.subject import Subject
from qlora.objective import loss_sum, supervise, supervised_hidden

LAYERS = [
    "model.layers.0.self_attn.q_proj",  # the first to see the embedding, in a group of three
    "model.layers.0.self_attn.v_proj",
    "model.layers.1.self_attn.o_proj",
    "model.layers.3.mlp.down_proj",
]


def dense_gradients(subject, examples):
    """G of `y + x D^T` at D = 0: by autograd, all at once."""
    layers = {name: subject.model.get_submodule(name) for name in LAYERS}
    deltas = {
        name: torch.zeros(m.out_features, m.in_features, requires_grad=True)
        for name, m in layers.items()
    }
    hooks = [
        module.register_forward_hook(lambda _, x, y, d=deltas[name]: y + x[0] @ d.T)
        for name, module in layers.items()
    ]
    batch = supervise([[example] for example in examples], subject.pad_id)
    loss = loss_sum(subject.model, batch) / len(batch.labels)
    gradients = torch.autograd.grad(loss, list(deltas.values()))
    for hook in hooks:
        hook.remove()
    return dict(zip(LAYERS, gradients, strict=True))


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"targets": ("o_proj",)}])
@pytest.mark.parametrize("tuned", [True, False])
def test_products_are_those_of_the_full_gradient(run, changes, tuned):
    subject = Subject.open(run(**changes))
    examples = subject.every_example("training")[:7]
    columns = {name: probes(subject.layers[name].in_features, 0)[:, :5] for name in LAYERS}
    if tuned:
        found = gradient_products(subject.model, columns, examples, subject.pad_id)
        dense = dense_gradients(subject, examples)
    else:
        with qk.nn.disable_adapters(subject.model):
            found = gradient_products(subject.model, columns, examples, subject.pad_id)
            dense = dense_gradients(subject, examples)
    for name in LAYERS:
        want = dense[name] @ columns[name]
        torch.testing.assert_close(found[name], want, rtol=1e-3, atol=1e-4 * float(want.norm()))


def test_nothing_of_the_model_changes(subject):
    before = {n: (p.requires_grad, p.clone()) for n, p in subject.model.named_parameters()}
    hooks = [len(m._forward_hooks) for m in subject.model.modules()]
    columns = {name: torch.ones(128, 1) for name in LAYERS[:3]}
    gradient_products(subject.model, columns, subject.every_example("training")[:2])
    for name, parameter in subject.model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert hooks == [len(m._forward_hooks) for m in subject.model.modules()]


@pytest.mark.parametrize("size", [5, 128, 200])
def test_probes_stand_for_every_direction(size):
    r = probes(size, 1).double()
    c = min(size, 128)
    assert r.shape == (size, c)
    torch.testing.assert_close(
        r.T @ r, size / c * torch.eye(c, dtype=torch.float64), atol=1e-5, rtol=0
    )
    if size == 200:  # E[R R^T] = I, over 200 seeds
        mean = sum(
            probes(size, seed).double() @ probes(size, seed).double().T for seed in range(200)
        )
        assert (mean / 200 - torch.eye(size)).abs().max() < 0.2
        assert (mean / 200).diagonal().mean() == pytest.approx(1, abs=1e-5)


def some(n, k, rank, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    left, right = torch.linalg.qr(draw(n, rank)).Q, torch.linalg.qr(draw(k, rank)).Q
    return draw(n, k), left, right, draw(k, min(k, 30))


def test_outside_is_the_two_sided_projection():
    gradient, left, right, r = some(9, 7, 3, 0)
    dense = (torch.eye(9) - left @ left.T) @ gradient @ (torch.eye(7) - right @ right.T) @ r
    found = outside(gradient @ r, gradient @ right, left, right.T @ r)
    torch.testing.assert_close(found, dense, rtol=1e-12, atol=1e-12)


def test_an_update_of_the_factors_is_all_inside():
    """`dB A + B dA` for any dA and dB; and what is at right angles to A and B is all outside."""
    gradient, left, right, r = some(9, 7, 2, 1)
    update = gradient[:, :2] @ right.T + left @ gradient[:2]
    inside = outside(update @ r, update @ right, left, right.T @ r)
    assert inside.norm() < 1e-12 * (update @ r).norm()
    rest = (torch.eye(9) - left @ left.T) @ gradient @ (torch.eye(7) - right @ right.T)
    torch.testing.assert_close(outside(rest @ r, rest @ right, left, right.T @ r), rest @ r)


def test_spans_of_a_layer_are_those_of_its_factors(run):
    for changes in ({}, {"dora": True}):
        layer = Subject.open(run(**changes)).layers[LAYERS[0]]
        scale = 1.0
        if layer.lora_magnitude is not None:
            dense = layer.dequantize() + layer.scaling * layer.lora_b @ layer.lora_a
            scale = (layer.lora_magnitude / dense.norm(dim=1))[:, None]
        left, right = update_spans(layer, tuned=True)
        assert left.shape == right.shape == (128, 4)
        for basis, columns in ((left, scale * layer.lora_b), (right, layer.lora_a.T)):
            columns = columns.detach()
            torch.testing.assert_close(basis @ (basis.T @ columns), columns, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            layer.lora_b.zero_()
        assert update_spans(layer, tuned=True)[0].shape == (128, 0)


def test_energies_of_a_layer_without_estimates_are_exact():
    gradient, left, right, _ = some(20, 12, 3, 2)
    r = probes(12, 0).double()
    missed = outside(gradient @ r, gradient @ right, left, right.T @ r)
    of_layer = LayerGradient(gradient @ r, missed, 3, 0.0, True, 240)
    dense = gradient - left @ (left.T @ gradient)
    dense = dense - dense @ right @ right.T
    assert of_layer.energy == pytest.approx(float(gradient.square().sum()), rel=1e-6)
    assert of_layer.missed_energy == pytest.approx(float(dense.square().sum()), rel=1e-6)
    sigma = torch.linalg.svdvals(gradient)
    assert of_layer.best_energy(4) == pytest.approx(float(sigma[:4].square().sum()), rel=1e-6)


def test_estimates_are_right_on_average_and_do_not_call_noise_a_direction():
    """400 inputs through 128 columns: a strong direction in noise without any."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(60, 400, generator=generator, dtype=torch.float64)
    strong = torch.outer(torch.ones(60), torch.ones(400)).double()
    gradient = noise + strong
    energies, best = [], []
    for seed in range(30):
        of_layer = LayerGradient(gradient @ probes(400, seed).double(), None, 0, 0.0, False, 24000)
        energies.append(of_layer.energy)
        best.append(of_layer.best_energy(1))
    total, first = float(gradient.square().sum()), float(torch.linalg.svdvals(gradient)[0] ** 2)
    assert sum(energies) / 30 == pytest.approx(total, rel=0.06)
    assert sum(best) / 30 == pytest.approx(first, rel=0.12)
    assert all(abs(e / total - 1) < 4 * (2 / 128) ** 0.5 for e in energies)


def test_chance_is_what_random_directions_hold():
    shares = []
    for seed in range(200):
        gradient, left, right, _ = some(24, 16, 3, seed)
        r = torch.eye(16, dtype=torch.float64)
        missed = outside(gradient @ r, gradient @ right, left, right.T @ r)
        shares.append(1 - float(missed.square().sum() / gradient.square().sum()))
    assert sum(shares) / 200 == pytest.approx(1 - (1 - 3 / 16) * (1 - 3 / 24), rel=0.03)


def test_layers_of_a_model(subject):
    examples = subject.every_example("training")[:6]
    found = layer_gradients(subject.model, True, examples, subject.pad_id, 0)
    dense = dense_gradients(subject, examples)
    assert found.keys() == subject.layers.keys()
    for name in LAYERS[:3]:
        gradient, (left, right) = dense[name].double(), update_spans(subject.layers[name], True)
        rest = gradient - left.double() @ (left.double().T @ gradient)
        rest = rest - rest @ right.double() @ right.double().T
        assert found[name].energy == pytest.approx(float(gradient.square().sum()), rel=1e-3)
        assert found[name].missed_energy == pytest.approx(float(rest.square().sum()), rel=1e-3)
        assert found[name].exact and not found[LAYERS[3]].exact
    down = found[LAYERS[3]].energy / float(dense[LAYERS[3]].square().sum())
    assert abs(down - 1) < 4 * (2 / 128) ** 0.5


def test_a_head_that_is_computed_twice_is_counted_once(run):
    """Its logits are made again in backward, in chunks."""
    subject = Subject.open(run(targets=("lm_head", "v_proj"), untie=True, steps=6))
    examples, r = subject.every_example("training")[:4], probes(128, 0)
    found = gradient_products(subject.model, {"lm_head": r}, examples, subject.pad_id)["lm_head"]
    batch = supervise([[example] for example in examples], subject.pad_id)
    hidden = supervised_hidden(subject.model, batch).detach()
    delta = torch.zeros(1024, 128, requires_grad=True)
    logits = subject.model.lm_head(hidden).detach() + hidden @ delta.T
    torch.nn.functional.cross_entropy(logits, batch.labels).backward()
    torch.testing.assert_close(found, delta.grad @ r, rtol=1e-3, atol=1e-4 * float(found.norm()))
