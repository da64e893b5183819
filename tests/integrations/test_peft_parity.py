"""Ours and stock peft on a float copy of the same base: the same logits, gradients and losses."""

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from integrations.adapters import IGNORED, METHODS, OurDropout, lora, ours, replace_dropout, stock
from integrations.conftest import TOKENS, logits

pytestmark = pytest.mark.filterwarnings(IGNORED)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_logits(method: str):
    model = ours(lora(**METHODS[method])).eval()
    torch.testing.assert_close(logits(model), logits(stock(model)), rtol=1e-4, atol=1e-4)


def train(model: PeftModel, steps: int = 30) -> torch.Tensor:
    """Losses on random pieces of one text, the same for every model and seed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    random, values = torch.Generator().manual_seed(4), []
    torch.manual_seed(9)
    for _ in range(steps):
        start = int(torch.randint(16, (1,), generator=random))
        batch = TOKENS[:, start : start + 24]
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.detach())
    return torch.stack(values)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_30_steps_give_the_same_losses(method: str, dropout: float):
    """With dropout, stock peft gets the masks that our op draws."""
    model = ours(lora(lora_dropout=dropout, **METHODS[method]), trained=False).train()
    twin = stock(model)
    if dropout:
        replace_dropout(twin, OurDropout)
    found, expected = train(model), train(twin)
    assert expected[-1] < expected[0] - 0.5, "it should have learnt something"
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_same_gradients_with_dropout(method: str):
    model = ours(lora(lora_dropout=0.3, **METHODS[method])).train()
    twin = stock(model)
    replace_dropout(twin, OurDropout)
    for one in (model, twin):
        torch.manual_seed(2)
        one(TOKENS, labels=TOKENS).loss.backward()
    theirs = dict(twin.named_parameters())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and trained.keys() == {n for n, p in theirs.items() if p.requires_grad}
    for name, parameter in trained.items():
        expected = theirs[name].grad
        assert (parameter.grad - expected).norm() < 1e-4 * expected.norm(), name


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_dropout_that_somebody_put_in_place(method: str):
    """A module of the user's own in `lora_dropout` is called, as peft does."""
    model = ours(lora(lora_dropout=0.3, **METHODS[method])).train()
    twin = stock(model)
    for one in (model, twin):
        replace_dropout(one, OurDropout)
    torch.manual_seed(1)
    found = logits(model)
    torch.manual_seed(1)
    torch.testing.assert_close(found, logits(twin), rtol=1e-4, atol=1e-4)


class Counting(TorchDispatchMode):
    """How often each of our operators and each product of torch's was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.name()
        self.calls[name] = self.calls.get(name, 0) + 1
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_one_op_call_per_layer(dropout: float):
    model = ours(lora(lora_dropout=dropout)).train()
    layers = sum(isinstance(m, nn.Linear) and "lora" not in n for n, m in model.named_modules()) - 1
    with Counting() as counted, torch.no_grad():
        model(TOKENS)
    ops = {n: count for n, count in counted.calls.items() if n.startswith("qlora_kernels::")}
    assert ops == {"qlora_kernels::qlora_linear": layers}
    assert counted.calls["aten::mm"] == 1, "the head's product is the only dense one"


def test_bfloat16_and_gradient_checkpointing():
    model = ours(lora(use_dora=True), trained=False).train()
    model.base_model.model.to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            assert "lora_" in name
    model(TOKENS, labels=TOKENS).loss.backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": False})
    model(TOKENS, labels=TOKENS).loss.backward()
    for name, gradient in plain.items():
        assert torch.equal(gradient, model.get_parameter(name).grad), name
