"""A model in small whose training step goes through every kernel: grouped layers, DoRA, dropout."""

from collections.abc import Callable

import torch
from torch import nn

import qlora_kernels as qk

WIDTH, VOCABULARY, ROWS = 64, 48, 8
KINDS = {
    "plain": qk.QLoRAConfig(rank=8, alpha=16),
    "dropout": qk.QLoRAConfig(rank=8, alpha=16, dropout=0.25),
    "dropout of the input": qk.QLoRAConfig(rank=8, alpha=16, dropout=0.25, dropout_on="input"),
    "dora": qk.QLoRAConfig(rank=8, alpha=16, dora=True),
    "dora with dropout": qk.QLoRAConfig(rank=8, alpha=16, dora=True, dropout=0.25),
}


class Block(nn.Module):
    """q, k and v share x, as prepare_model finds out; o has a bias; the head is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, WIDTH // 2, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH // 2, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return x + self.o_proj(torch.tanh(q + torch.cat([k, v], dim=-1)))


def block(kind: str, device: torch.device | str) -> nn.Module:
    """Prepared, in train mode, with factors that are not zero."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": Block()}).train()
    with qk.use_backend("reference"):
        qk.prepare_model(model, KINDS[kind])
    for parameter in trained(model):
        nn.init.normal_(parameter, std=0.2)
    return model["layer"].to(device)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def inputs(device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [rows, width], a frozen head [vocabulary, width] and labels [rows]."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, WIDTH, generator=random)
    head = torch.randn(VOCABULARY, WIDTH, generator=random)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=random)
    labels[2] = -100
    return x.to(device), head.to(device), labels.to(device)


def stepping(
    kind: str, device: torch.device | str, bits: int = 8
) -> tuple[Callable[[], torch.Tensor], list[nn.Parameter]]:
    """(a call that makes one training step and gives its loss, what it trains), all in place."""
    module, (x, head, labels) = block(kind, device), inputs(device)
    parameters = trained(module)
    optimizer = qk.optim.AdamW(parameters, lr=1e-3, bits=bits, max_gradient_norm=1.0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = qk.linear_cross_entropy(module(x), head, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, parameters
