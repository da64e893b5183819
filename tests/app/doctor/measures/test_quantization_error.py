import shutil

import pytest
import torch

from qlora.doctor.dense_base import DenseWeights, dense_layers
from qlora.doctor.measures import quantization_error as measured
from qlora.doctor.subject import Subject
from qlora.doctor.token_losses import token_losses
from qlora_kernels.errors import InputError


def test_error_by_hand():
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    quantized = torch.tensor([[0.5, 0.0], [0.0, 2.0]])
    x = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert measured.squares(x, weight, quantized).tolist() == [4.0, 20.0]
    assert measured.relative_error(torch.tensor([4.0, 20.0])) == pytest.approx(0.2**0.5)
    assert measured.relative_error(torch.zeros(2)) == 0


def test_probability_lost_by_hand():
    """3.1 nats after 3.0: exp(-0.1) of the probability is left."""
    totals = torch.tensor([31.0, 10.0, 30.0, 10.0], dtype=torch.float64)
    left = torch.tensor(-0.1, dtype=torch.float64).exp()
    assert float(measured.probability_lost(totals)) == pytest.approx(float(1 - left))


def test_finer_storage_errs_less(run):
    found = {}
    for name in ("nf4", "int8"):
        subject = Subject.open(run(format=name, steps=2, seed=3))
        found[name] = {fact.name: fact for fact in measured.measure(subject)}
        assert found[name]["quantization_error"].by_layer.keys() == subject.layers.keys()
    nf4, int8 = (found[name]["quantization_error"] for name in ("nf4", "int8"))
    assert 0.02 < nf4.value < 0.15
    assert int8.value < nf4.value / 8
    assert abs(found["int8"]["quantization_loss"].value) < 0.01
    worst = max(nf4.by_layer, key=nf4.by_layer.get)
    assert f"most {worst} {nf4.by_layer[worst]:.1%}" in nf4.detail
    assert nf4.value < 1.5 * max(int8.by_layer.values()) * 20


def test_dense_layers_are_the_dense_model(run, model):
    """`model` is the fixture in float32, never quantized."""
    subject = Subject.open(run())
    examples = subject.examples("validation")
    weights = DenseWeights(subject.settings.model, subject.model)
    with dense_layers(subject.layers, weights):
        found = token_losses(subject.model, examples, subject.pad_id)
    want = token_losses(model, examples, subject.pad_id)
    torch.testing.assert_close(found.loss, want.loss, rtol=1e-4, atol=1e-4)
    assert found.mean != pytest.approx(subject.losses("validation", tuned=False).mean, rel=1e-4)


def test_a_base_that_is_not_quantized(run):
    (fact,) = measured.measure(Subject.open(run(format="none", steps=2, seed=3)))
    assert (fact.value, fact.detail) == (0.0, "the base is not quantized")


def test_other_weights_than_were_quantized_are_refused(run, tiny, tmp_path):
    subject = Subject.open(run())
    shutil.copytree(tiny, tmp_path / "model")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    name, layer = "model.layers.0.mlp.up_proj", subject.layers["model.layers.0.mlp.up_proj"]
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"].flip(0).contiguous()
    del tensors["model.layers.0.mlp.gate_proj.weight"]
    save_file(tensors, file)
    weights = DenseWeights(tmp_path / "model", subject.model)
    with pytest.raises(InputError, match=r"up_proj.weight should be what was quantized, is not"):
        weights.weight(name, layer)
    gate = "model.layers.0.mlp.gate_proj"
    with pytest.raises(InputError, match=r"should hold .*gate_proj.weight in 16 or 32 bits"):
        weights.weight(gate, subject.layers[gate])
