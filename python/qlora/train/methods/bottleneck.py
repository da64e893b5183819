"""Bottleneck adapters: a small network behind every attention and feed-forward.

    y = f(x) + up(gelu(down(f(x)))),    down [size, hidden], up [hidden, size]

up begins at zero, so training starts from the base. Source: arXiv 1902.00751. peft has none of
them, so the module is written here; it is a baseline and no part of the library.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora.train.methods.method import Shape, as_masters, parameter_count
from qlora.train.methods.parameter_files import InOneFile
from qlora_kernels.errors import InputError

_BLOCKS = r".*\.(self_attn|attn|attention|mlp)"  # whose output joins the residual stream


class Network(nn.Module):
    """`up(gelu(down(y)))`."""

    def __init__(self, hidden: int, size: int) -> None:
        """`up` is zero."""
        super().__init__()
        self.down, self.up = nn.Linear(hidden, size), nn.Linear(size, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, y: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden], in y's dtype."""
        change: Tensor = self.up(torch.nn.functional.gelu(self.down(y.to(self.up.weight.dtype))))
        return change.to(y.dtype)


class Bottleneck(InOneFile):
    """One Network of width `size` behind each attention and feed-forward of the model."""

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        """Raises InputError for a model whose blocks are named in another way."""
        hidden = Shape.of(model.config.get_text_config()).hidden
        blocks = {n: m for n, m in model.base_model.named_modules() if re.fullmatch(_BLOCKS, n)}
        if not blocks:
            raise InputError(
                f"train: method bottleneck should find attention and mlp blocks in the model, was"
                f" {type(model).__name__}"
            )
        self.size = size
        self.networks = {name: Network(hidden, size).to(model.device) for name in blocks}
        self.parameters = as_masters(
            {
                f"{name}.{part}": parameter
                for name, network in self.networks.items()
                for part, parameter in network.named_parameters()
            }
        )
        for name, block in blocks.items():
            block.register_forward_hook(_behind(self.networks[name]))

    def partner(self, name: str) -> str | None:
        """What goes down waits for what goes up."""
        network, _, part = name.rpartition(".down.")
        return f"{network}.up.weight" if part and network else None

    def describe(self) -> str:
        """How many, and where."""
        values, blocks = parameter_count(self.parameters), len(self.networks)
        return f"bottlenecks of {self.size} behind {blocks} blocks, {values:,} parameters"


def _behind(network: Network) -> Any:
    """A hook that adds the network's output to that of a block, which may be the first of many."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + network(output[0]), *output[1:])
        return output + network(output)

    return hook
