"""How each method prepares the dense model, and what its users call the loss.

    full          every weight, AdamW                           transformers
    lora          adapters over 16 (or 32) bits                 peft
    qlora         adapters over NF4, scales quantized too       peft + bitsandbytes
    qlora-guide   the same as peft's guide prepares it: checkpointing, norms in float32
    ours-16       adapters over 16 (or 32) bits                 qlora_kernels
    ours          adapters over NF4, scales quantized too       qlora_kernels
    ours-dora     the same with DoRA; ours-lora+ with 16 times the rate for B

All adapters start from the same factors, drawn by the layer's name.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

import qlora_kernels as qk
from bench.kernels.peers import import_refusal
from bench.train_step.problem import Problem
from qlora.data import Example
from qlora.data.encode import IGNORE
from qlora.objective import autocast, loss_sum, supervise
from qlora.train.prepare import recompute_activations

ALPHA = 32
LORA_PLUS_RATIO = 16

Prepare = Callable[[PreTrainedModel, Problem], Any]
Loss = Callable[[Any, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Way:
    """One method. twin: whose losses it must have, step by step; None where nobody trains so.

    peers: packages that are not ours. allocator: whether its users gain from a raised allocator,
    since it makes dense tensors in each step.
    """

    title: str
    prepare: Prepare
    loss: Loss
    twin: str | None = None
    peers: tuple[str, ...] = ()
    allocates: bool = True
    lora_plus_ratio: float = 1.0

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        reasons = [f"{name} {import_refusal(name)}" for name in self.peers if import_refusal(name)]
        return reasons[0] if reasons else None


def prepare_full(model: PreTrainedModel, problem: Problem) -> Any:
    """float32 masters, as small steps would vanish in 16 bits."""
    checkpoint(model.float(), problem)
    return model


def prepare_peft(model: PreTrainedModel, problem: Problem) -> Any:
    """peft's LoRA on all linear layers."""
    import peft

    checkpoint(model, problem)
    config = peft.LoraConfig(r=problem.rank, lora_alpha=ALPHA, target_modules="all-linear")
    return same_start(peft.get_peft_model(model, config))


def prepare_bitsandbytes(model: PreTrainedModel, problem: Problem) -> Any:
    """peft's LoRA over bitsandbytes' Linear4bit in place of every linear layer but the head."""
    return prepare_peft(in_four_bits(model), problem)


def prepare_by_guide(model: PreTrainedModel, problem: Problem) -> Any:
    """The same as peft's guide to quantization has it."""
    import peft

    prepared = peft.prepare_model_for_kbit_training(
        in_four_bits(model), gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    return prepare_peft(prepared, problem)


def in_four_bits(model: PreTrainedModel) -> PreTrainedModel:
    """What `BitsAndBytesConfig(load_in_4bit=True)` makes, from weights that are in memory."""
    import bitsandbytes

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not torch.nn.Linear or layer is head:
                continue
            made = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=layer.weight.dtype,
                quant_type="nf4",
                device="meta",
            )
            made.bias = layer.bias
            made.weight = bitsandbytes.nn.Params4bit(
                layer.weight.detach(), requires_grad=False, quant_type="nf4"
            )
            setattr(parent, name, made.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # by which peft chooses its layer
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def prepare_ours(**settings: Any) -> Prepare:
    """`prepare_model` with these settings."""

    def prepare(model: PreTrainedModel, problem: Problem) -> Any:
        qk.prepare_model(model, qk.QLoRAConfig(rank=problem.rank, alpha=ALPHA, **settings))
        checkpoint(model, problem)
        return same_start(model)

    return prepare


def checkpoint(model: PreTrainedModel, problem: Problem) -> None:
    """Recompute activations where the problem says so."""
    if problem.checkpointing:
        recompute_activations(model)


def same_start(model: Any) -> Any:
    """Draw every A by its layer's name alone, with std 1 / rank; every B is zero already."""
    for name, parameter in model.named_parameters():
        layer, _, kind = name.replace(".default.weight", "").rpartition(".")
        if kind.lower() == "lora_a":
            seed = zlib.crc32(layer.removeprefix("base_model.model.").encode())
            random = torch.Generator().manual_seed(seed)
            values = torch.randn(parameter.shape, generator=random) / len(parameter)
            parameter.data.copy_(values)
    return model


def own_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The loss that a transformers model computes of itself."""
    with autocast(model):
        loss: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def trainer_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The loss as `qlora train` computes it."""
    rows = [[Example(row, [IGNORE, *row[1:]], "text", "verse")] for row in ids.tolist()]
    supervised = supervise(rows, pad_id=0)
    return loss_sum(model, supervised) / len(supervised.labels)


PEERS = ("peft", "bitsandbytes")
METHODS = {
    "full": Way("full fine-tuning, transformers", prepare_full, own_loss),
    "lora": Way("16-bit LoRA, peft", prepare_peft, own_loss, peers=("peft",)),
    "qlora": Way("QLoRA, peft + bitsandbytes", prepare_bitsandbytes, own_loss, peers=PEERS),
    "qlora-guide": Way(
        "QLoRA, peft + bitsandbytes by peft's guide", prepare_by_guide, own_loss, "qlora", PEERS
    ),
    "ours-16": Way(
        "16-bit LoRA, ours", prepare_ours(format="none"), trainer_loss, "lora", allocates=False
    ),
    "ours": Way("QLoRA, ours", prepare_ours(), trainer_loss, "qlora", allocates=False),
    "ours-dora": Way("QDoRA, ours", prepare_ours(dora=True), trainer_loss, allocates=False),
    "ours-lora+": Way(
        "QLoRA with LoRA+, ours",
        prepare_ours(),
        trainer_loss,
        allocates=False,
        lora_plus_ratio=LORA_PLUS_RATIO,
    ),
}
