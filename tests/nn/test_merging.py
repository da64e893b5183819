"""Merging into the base: what arrives, what it costs, and the way back."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import qlora_kernels as qk
from nn.test_adapter_files import trained
from qlora_kernels.formats import Adapter, QuantizedTensor
from qlora_kernels.nn import QLoRAConfig, merge_adapter, quantized_layers, unmerge_adapter
from qlora_kernels.nn.merging import merge_into, merged_weight

FORMATS = ["nf4", "fp4", "int8", "none"]


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Counted(TorchDispatchMode):
    """The names of all ops that run, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


def ops_of(model: nn.Module, tokens: torch.Tensor) -> list[str]:
    with Counted() as counted:
        logits(model, tokens)
    return counted.ops


@pytest.mark.parametrize("format", FORMATS)
def test_a_merged_model_costs_what_the_base_costs(model, loaded, tokens, format: str):
    base = qk.prepare_model(copy.deepcopy(loaded), QLoRAConfig(format=format, targets=[]))
    trained(model, QLoRAConfig(rank=4, format=format))
    assert ops_of(model, tokens) != ops_of(base, tokens) or format != "none"
    merge_adapter(model, force=True)
    assert ops_of(model, tokens) == ops_of(base, tokens)
    for name, layer in quantized_layers(model).items():
        assert layer.adapter is None
        assert layer.base.dtype == quantized_layers(base)[name].base.dtype


@pytest.mark.parametrize("format", FORMATS)
def test_unmerging_is_bit_exact(model, tokens, format: str):
    trained(model, QLoRAConfig(rank=4, format=format))
    before, answer = stored(model), logits(model, tokens)
    merge_adapter(model, force=True)
    assert not torch.equal(logits(model, tokens), answer)
    unmerge_adapter(model)
    after = stored(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model, tokens), answer)


def test_a_dense_merge_is_the_sum_rounded_once(model):
    trained(model, QLoRAConfig(rank=4, format="none"))
    exact = {
        name: layer.weight.double() + layer.scaling * layer.lora_b.double() @ layer.lora_a.double()
        for name, layer in quantized_layers(model).items()
    }
    losses = merge_adapter(model)
    assert all(abs(loss.retained - 1) < 1e-5 and loss.noise < 1e-5 for loss in losses.values())
    for name, layer in quantized_layers(model).items():
        torch.testing.assert_close(layer.weight.data, exact[name].float())


@pytest.mark.parametrize("magnitude", [False, True])
def test_the_merged_weight_is_its_formula_in_float64(magnitude: bool):
    w, a, b = torch.randn(48, 64), torch.randn(3, 64), torch.randn(48, 3)
    m = torch.rand(48) + 0.5 if magnitude else None
    q = qk.quantize(w)
    exact = qk.dequantize(q, torch.float32).double() + 0.3 * b.double() @ a.double()
    if m is not None:
        exact *= (m.double() / exact.norm(dim=1))[:, None]
    merged = merged_weight(q, Adapter(a, b, 0.3, magnitude=m))
    torch.testing.assert_close(merged, exact.float())


@pytest.mark.parametrize("format", ["nf4", "none"])
def test_dora_is_merged_and_unmerged(model, tokens, format: str):
    trained(model, QLoRAConfig(rank=4, dora=True, format=format))
    before, answer = stored(model), logits(model, tokens)
    losses = merge_adapter(model, force=True)
    merged = logits(model, tokens)
    if format == "none":
        assert all(loss.noise < 1e-5 for loss in losses.values())
        assert (merged - answer).norm() < 1e-4 * answer.norm()
    unmerge_adapter(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in stored(model).items())
    assert torch.equal(logits(model, tokens), answer)


def test_a_row_of_norm_zero_stays_zero():
    w = torch.zeros(2, 64)
    merged = merged_weight(
        w, Adapter(torch.ones(1, 64), torch.zeros(2, 1), 1.0, magnitude=torch.ones(2))
    )
    assert torch.equal(merged, w)


def test_small_updates_drown_in_four_bits_and_large_ones_survive():
    """The dead zone: less than half a step of the grid rounds back to where it was."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(256, 256, generator=generator)
    a, b = torch.randn(4, 256, generator=generator), torch.randn(256, 4, generator=generator)
    relative = (b @ a).norm() / w.norm()
    kept = {}
    for size in (0.01, 0.1, 1.0):
        _, kept[size] = merge_into(qk.quantize(w), Adapter(a, b, float(size / relative)))
    assert kept[0.01].retained < 0.1 < kept[0.1].retained < kept[1.0].retained
    assert kept[1.0].retained > 0.98 and kept[1.0].noise < kept[0.1].noise < kept[0.01].noise
    assert kept[0.01].noise > 0.9, "what does not arrive is noise, too"


@pytest.mark.parametrize("format", FORMATS)
def test_no_update_changes_no_bit(format: str):
    w = torch.randn(32, 96)
    base = w if format == "none" else qk.quantize(w, format)
    merged, loss = merge_into(base, Adapter(torch.randn(2, 96), torch.zeros(32, 2), 1.0))
    assert merged is base and (loss.retained, loss.noise) == (1.0, 0.0)


def test_a_merge_that_loses_the_update_is_refused_and_changes_nothing(model, tokens):
    trained(model, QLoRAConfig(rank=4))
    for layer in quantized_layers(model).values():
        layer.lora_b.data.mul_(1e-3)
    before, answer = stored(model), logits(model, tokens)
    with pytest.raises(qk.InputError, match=r"at least 90% of the update should survive 4 bits"):
        merge_adapter(model)
    assert all(torch.equal(before[n], t) for n, t in stored(model).items())
    assert torch.equal(logits(model, tokens), answer)
    losses = merge_adapter(model, force=True)
    assert max(loss.retained for loss in losses.values()) < 0.9


def test_what_needs_an_unmerged_model_says_so(model, tmp_path):
    trained(model, QLoRAConfig(rank=4))
    with pytest.raises(qk.InputError, match="unmerge_adapter: model should be merged"):
        unmerge_adapter(model)
    folder, unmerged = tmp_path / "adapter", copy.deepcopy(model)
    qk.save_adapter(model, folder)
    merge_adapter(model, force=True)
    with pytest.raises(qk.InputError, match="merge_adapter: model should be unmerged"):
        merge_adapter(model)
    with pytest.raises(qk.InputError, match="the layer should be unmerged"):
        qk.load_adapter(model, folder)
    with pytest.raises(qk.InputError, match="the state dict should hold"):
        unmerged.load_state_dict(model.state_dict())


def test_a_merged_model_can_be_copied_and_unmerged(model, tokens):
    trained(model, QLoRAConfig(rank=4))
    answer = logits(model, tokens)
    merge_adapter(model, force=True)
    twin = copy.deepcopy(model)
    unmerge_adapter(twin)
    assert torch.equal(logits(twin, tokens), answer)
    assert not torch.equal(logits(model, tokens), answer)


def test_a_merged_tensor_keeps_its_format():
    q = qk.quantize(torch.randn(64, 64, dtype=torch.bfloat16), "fp4", 32, double_quant=False)
    merged, _ = merge_into(q, Adapter(torch.randn(2, 64), torch.randn(64, 2), 1.0))
    assert isinstance(merged, QuantizedTensor)
    assert (merged.spec, merged.dtype) == (q.spec, torch.bfloat16)
    assert replace(q, codes=merged.codes).codes.shape == q.codes.shape
