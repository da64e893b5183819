"""What is merged is what the adapter does to the weights, whatever kind it is: peft says so too."""

import math

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import qlora_kernels as qk
from app.merge.material import difference
from qlora.merge import MergeSpec, merge_adapters
from qlora.merge.base import BaseWeights
from qlora_kernels.errors import InputError

SIZES = {"first": (24, 16), "second": (20, 24)}
PLAIN = qk.QLoRAConfig(format="none")


class Net(nn.Module):
    """Two linear layers with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, (rows, columns) in SIZES.items():
            layer = nn.Linear(columns, rows, bias=False)
            layer.weight.data.normal_(generator=generator)
            setattr(self, name, layer)

    def forward(self, x):
        return self.second(self.first(x))


def saved(folder, seed: int, **options):
    """An adapter that stock peft made and saved, and the weights that it means, by peft itself."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["first", "second"], **options})
    model = peft.get_peft_model(Net(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            noise = torch.randn_like(parameter) * 0.3
            parameter.data = parameter.data + noise if "magnitude" in name else noise
    model.save_pretrained(folder)
    return folder, weights_of(model)


def weights_of(model) -> dict[str, torch.Tensor]:
    """The effective weight of each layer, from what it does to the identity."""
    model.eval()
    with torch.no_grad():
        return {
            name: getattr(model, name)(torch.eye(columns)).T for name, (_, columns) in SIZES.items()
        }


def loaded(folder) -> dict[str, torch.Tensor]:
    return weights_of(peft.PeftModel.from_pretrained(Net(), folder))


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in Net().state_dict().items()}, folder / "m.safetensors")
    return folder


KINDS = {
    "lora": {"lora_alpha": 6},
    "rslora": {"lora_alpha": 6, "use_rslora": True},
    "patterns": {"rank_pattern": {"first": 2}, "alpha_pattern": {"second": 1}},
    "one layer": {"target_modules": ["second"], "r": 3},
    "dora": {"use_dora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_the_average_of_what_peft_computes(tmp_path, base, kind):
    first, one = saved(tmp_path / "a", 1, **KINDS[kind])
    second, two = saved(tmp_path / "b", 2, r=2)
    how = BaseWeights(base, PLAIN) if kind == "dora" else None
    report = merge_adapters([first, second], tmp_path / "out", MergeSpec("average"), how)
    merged = loaded(tmp_path / "out")
    for name in SIZES:
        wanted = (one[name] + two[name]) / 2
        assert difference(merged[name], wanted) <= 1e-6
    assert report.overall["error"] <= 1e-6


def test_dora_at_a_low_rank_reports_what_is_left_over(tmp_path, base):
    first, one = saved(tmp_path / "a", 1, use_dora=True)
    how = BaseWeights(base, PLAIN)
    report = merge_adapters([first], tmp_path / "out", MergeSpec("average", rank="6"), how)
    merged, plain = loaded(tmp_path / "out"), weights_of(Net())
    wanted = torch.cat([(one[name] - plain[name]).flatten() for name in SIZES])
    found = torch.cat([(merged[name] - plain[name]).flatten() for name in SIZES])
    error = float((found - wanted).norm() / wanted.norm())
    assert error > 0.01
    assert math.isclose(report.overall["error"], error, rel_tol=1e-4)


def test_dora_sees_the_base_of_its_training(tmp_path, base):
    """On a quantized base the magnitude is divided by the norms of the dequantized weight."""
    first, _ = saved(tmp_path / "a", 1, use_dora=True)
    plain, int8 = (
        BaseWeights(base, qk.QLoRAConfig(format=name, double_quant=False))
        for name in ("none", "int8")
    )
    weight = Net().first.weight.detach()
    assert torch.equal(plain.weight("first"), weight)
    rounded = qk.dequantize(qk.quantize(weight, format="int8", block_size=64, double_quant=False))
    assert torch.equal(int8.weight("first"), rounded)
    for name, how in (("x", plain), ("y", int8)):
        merge_adapters([first], tmp_path / name, MergeSpec("average"), how)
    assert difference(loaded(tmp_path / "x")["first"], loaded(tmp_path / "y")["first"]) > 1e-4


def test_dora_without_its_base_is_refused(tmp_path):
    first, _ = saved(tmp_path / "a", 1, use_dora=True)
    with pytest.raises(InputError, match=r"a is DoRA.*--base should name the model"):
        merge_adapters([first], tmp_path / "out", MergeSpec())
    assert not (tmp_path / "out").exists()
