"""The same weights in peft: forward and every gradient agree, with dropout too; so does training.

peft's layer stands over the float weight, or over what the NF4 codes mean. Its dropout is replaced
by our mask. The yardstick of the error rule is peft itself in float32, the truth peft in float64.
"""

import copy
from dataclasses import replace

import peft
import pytest
import torch
from torch import nn

import qlora_kernels as qk
from nn.conftest import dequantized_into
from qlora_kernels.nn import QLoRAConfig, QLoRALinear, adapter_parameters, quantized_layers
from qlora_kernels.testing.cases import LINEAR_CASES
from qlora_kernels.testing.error_rule import ErrorRule

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

METHODS = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "rslora and dora": {"rslora": True, "dora": True},
}
# Not the 1 x 1 weight: where W and s B A nearly cancel, one rounding is all that is left of it.
SIZES = [(case.m, case.n, case.k) for case in LINEAR_CASES if case.m and case.n > 1 and case.rank]
SMALL = 5  # rows; fewer give a handful of numbers in x A^T, whose rounding is luck
DRAWS = 8  # of a small case, so that its luck evens out in the pool
PARTS = {"lora_a": "lora_A", "lora_b": "lora_B", "lora_magnitude": "lora_magnitude_vector"}


class Mask(nn.Module):
    """In place of peft's dropout."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask.to(x.dtype)


def pair(config: QLoRAConfig, n: int, k: int, draw: int) -> tuple[QLoRALinear, nn.Module]:
    """Our layer with an adapter that has learnt something, and peft's with the same values."""
    torch.manual_seed(1000 * n + draw)
    ours = QLoRALinear.from_linear(nn.Linear(k, n), config)
    nn.init.normal_(ours.lora_b, std=0.3)
    twin = nn.Sequential(nn.Linear(k, n))
    twin[0].weight.data.copy_(ours.dequantize())
    twin[0].bias.data.copy_(ours.bias)
    return ours, adapted_by_peft(twin, config, {"0": ours}).base_model.model[0]


def adapted_by_peft(
    model: nn.Module, config: QLoRAConfig, layers: dict[str, QLoRALinear]
) -> nn.Module:
    """peft's model with the factors of ours."""
    options = {"lora_dropout": 0.5 if config.dropout else 0.0, "use_dora": config.dora}
    theirs = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            use_rslora=config.rslora,
            target_modules=list(layers),
            **options,
        ),
    ).train()
    for name, layer in layers.items():
        for part, factor in factors_of(theirs.base_model.model.get_submodule(name)).items():
            factor.data.copy_(getattr(layer, part))
    return theirs


def factors_of(layer: nn.Module) -> dict[str, nn.Parameter]:
    """peft's parameters by our names."""
    found = {part: getattr(layer, name) for part, name in PARTS.items()}
    return {part: by["default"].weight for part, by in found.items() if len(by)}


def outputs(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    layer.zero_grad()
    y.backward(dy)
    ours = isinstance(layer, QLoRALinear)
    parts = (
        {n: p for n in PARTS if (p := getattr(layer, n)) is not None} if ours else factors_of(layer)
    )
    return {"y": y.detach(), "dx": x.grad} | {f"d{n}": p.grad.clone() for n, p in parts.items()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("format", ["none", "nf4"])
@pytest.mark.parametrize("method", METHODS)
def test_forward_and_all_gradients(method: str, format: str, dropout: float):
    rule = ErrorRule(torch.float32)
    config = QLoRAConfig(rank=4, alpha=6, format=format, dropout=dropout, dropout_on="input")
    draws = [(*size, i) for size in SIZES for i in range(DRAWS if size[0] < SMALL else 1)]
    for m, n, k, draw in draws:
        ours, theirs = pair(replace(config, **METHODS[method]), n, k, draw)
        x, dy = torch.randn(m, k), torch.randn(m, n)
        if dropout:
            torch.manual_seed(7)
            seed = torch.randint(2**62, (), dtype=torch.int64)  # the layer's next draw
            theirs.lora_dropout["default"] = Mask(qk.dropout_mask(seed, (m, k), dropout))
        torch.manual_seed(7)
        found, plain = outputs(ours, x, dy), outputs(theirs, x, dy)
        truth = outputs(copy.deepcopy(theirs).double(), x.double(), dy.double())
        assert found.keys() == plain.keys()
        for name in truth:
            rule.add(f"{m}x{n}x{k}, draw {draw}", name, found[name], plain[name], truth[name])
    rule.check()


def losses(model: nn.Module, tokens: torch.Tensor, steps: int = 50) -> torch.Tensor:
    """Of training on random pieces of the text, the same for every model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    random, values = torch.Generator().manual_seed(4), []
    for _ in range(steps):
        starts = torch.randint(tokens.shape[1] - 24, (4,), generator=random).tolist()
        batch = torch.stack([tokens[i % 2, start : start + 24] for i, start in enumerate(starts)])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.detach())
    return torch.stack(values)


@pytest.mark.parametrize("format", ["none", "nf4"])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_50_training_steps_give_the_same_losses(model, loaded, tokens, method: str, format: str):
    config = QLoRAConfig(rank=4, alpha=8, format=format, **METHODS[method])
    torch.manual_seed(0)
    qk.prepare_model(model, config)
    layers = {n: m for n, m in quantized_layers(model).items() if m.lora_a is not None}
    theirs = adapted_by_peft(dequantized_into(model, loaded), config, layers)
    assert len(adapter_parameters(model)) == sum(p.requires_grad for p in theirs.parameters())
    ours, expected = losses(model, tokens), losses(theirs, tokens)
    assert expected[-1] < expected[0] - 0.5, "it should have learnt something"
    assert (ours - expected).abs().max() < 1e-3
