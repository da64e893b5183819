"""Peft models over our codes, and stock peft's over a float copy of what the codes mean."""

import copy
from collections.abc import Callable
from functools import cache

import peft
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from integrations.conftest import TINY
from qlora_kernels.integrations.transformers import NF4Config

# peft asks transformers for what transformers calls by another name now.
IGNORED = "ignore:.*is_gradient_checkpointing.*:FutureWarning"

METHODS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "rslora and dora": {"use_rslora": True, "use_dora": True},
}


def lora(**options: object) -> peft.LoraConfig:
    fields = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**(fields | options))


@cache
def _loaded() -> nn.Module:
    options = {"quantization_config": NF4Config(), "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(TINY, **options)


def base() -> nn.Module:
    """The tiny Llama over codes."""
    return copy.deepcopy(_loaded())


def float_copy() -> nn.Module:
    """Dense, with the values that the codes of `base` stand for."""
    return base().dequantize()


def ours(config: peft.LoraConfig | None = None, trained: bool = True) -> peft.PeftModel:
    model = qk.integrations.peft.get_peft_model(base(), config or lora())
    return randomized(model) if trained else model


def randomized(model: peft.PeftModel, adapter: str = "default") -> peft.PeftModel:
    """As if trained: factors that do something, magnitudes that left the norm."""
    random = torch.Generator().manual_seed(len(adapter))
    for name, parameter in model.named_parameters():
        if f".lora_B.{adapter}." in name:
            nn.init.normal_(parameter, std=0.1, generator=random)
        if f".lora_magnitude_vector.{adapter}." in name:
            parameter.data *= torch.empty_like(parameter).uniform_(0.8, 1.2, generator=random)
    return model


def stock(model: peft.PeftModel) -> peft.PeftModel:
    """Stock peft's model with the same adapter, over the float copy."""
    config = copy.deepcopy(model.peft_config["default"])
    twin = peft.get_peft_model(float_copy(), config)
    factors = {n: t for n, t in model.state_dict().items() if ".lora_" in n and ".default" in n}
    assert not twin.load_state_dict(factors, strict=False).unexpected_keys
    return twin.train(model.training)


class OurDropout(nn.Module):
    """In place of peft's: the mask of our op's next call."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        seed = torch.randint(2**62, (), dtype=torch.int64)  # the op draws it so
        shape = x.reshape(-1, x.shape[-1]).shape
        return x * qk.dropout_mask(seed, shape, self.p).view(x.shape).to(x.dtype)


def replace_dropout(model: nn.Module, make: Callable[[float], nn.Module]) -> None:
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for name, dropout in module.lora_dropout.items():
                module.lora_dropout[name] = make(dropout.p)
