"""A merged model is loaded again and must answer as base and adapter do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import qlora_kernels as qk
from qlora.export.plan import Plan
from qlora.models import load_model
from qlora_kernels.errors import InputError
from qlora_kernels.nn import quantized_layers

ROWS, LENGTH = 2, 64  # of tokens to compare on


@dataclass(frozen=True)
class Verification:
    """Logits of the merged model against base and adapter, in float32 arithmetic.

    difference: root mean square of `merged - tuned`; effect: of `tuned - base`, what the adapter
    changes; largest: the largest absolute difference of a logit.
    """

    difference: float
    effect: float
    largest: float

    @property
    def share(self) -> float:
        """`difference / effect`; 0 for an adapter without effect."""
        return self.difference / self.effect if self.effect else 0.0


@torch.no_grad()
def verify(plan: Plan, model: Path, merged: Path) -> Verification:
    """Load both, one after the other, and compare them on the same tokens."""
    tuned, _ = load_model(model, "float32")
    vocabulary = plan.skeleton.shapes[f"{plan.skeleton.embedding}.weight"][0]
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (ROWS, LENGTH), generator=random)
    _prepare(plan, cast(nn.Module, tuned))
    base_logits = tuned(tokens).logits
    _adapt(plan, cast(nn.Module, tuned))
    tuned_logits = tuned(tokens).logits
    del tuned
    again, _ = load_model(merged, "float32")
    difference = again(tokens).logits - tuned_logits
    return Verification(
        difference=float(difference.double().square().mean().sqrt()),
        effect=float((tuned_logits - base_logits).double().square().mean().sqrt()),
        largest=float(difference.abs().max()),
    )


def check(verification: Verification, most: float) -> None:
    """Refuse a merged model that is further from base and adapter than it may."""
    if verification.share > most:
        raise InputError(
            f"export: the merged model should answer as base and adapter do, differs by "
            f"{verification.share:.0%} of what the adapter changes (rounding? --dtype float32 "
            "rounds less, --force takes it as it is)"
        )


def _prepare(plan: Plan, model: nn.Module) -> None:
    """The base as in training; layers that the adapter replaces stay dense."""
    skeleton = plan.skeleton
    if plan.unties:
        head = model.get_submodule(str(skeleton.head))
        head.weight = nn.Parameter(head.get_parameter("weight").detach().clone())
    replaced = {name.rpartition(".")[0] for name in plan.adapter.saved_modules}
    dense = {name: _dense(model, name) for name in replaced & skeleton.quantized}
    on_head = [str(skeleton.head)] if skeleton.head in plan.adapter.layers else []
    qk.prepare_model(model, replace(plan.storage, targets=on_head, rank=1))
    for name, linear in dense.items():
        model.set_submodule(name, linear)


def _dense(model: nn.Module, name: str) -> nn.Module:
    """The layer, or one of its size where the model was loaded from codes."""
    layer = model.get_submodule(name)
    if isinstance(layer, qk.nn.QLoRALinear):
        return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    return layer


def _adapt(plan: Plan, model: nn.Module) -> None:
    """Everything that the adapter folder holds, by the layers' own means."""
    adapter, layers = plan.adapter, quantized_layers(model)
    for name, tensor in adapter.saved_modules.items():
        model.get_parameter(name).copy_(tensor)
    for name, bias in adapter.biases.items():
        model.get_parameter(f"{name}.bias").copy_(bias)
    for name, factors in adapter.layers.items():
        given: dict[str, Any] = (
            {} if factors.magnitude is None else {"magnitude": factors.magnitude}
        )
        alpha = factors.scaling * factors.rank
        layers[name].set_adapter(factors.a, factors.b, alpha, **given)
    for name, factors in adapter.embeddings.items():
        update = factors.scaling * (factors.b.float() @ factors.a.float()).T
        model.get_parameter(f"{name}.weight").add_(update)
    for name, rows in adapter.token_rows.items():
        model.get_parameter(f"{name}.weight")[list(rows.indices)] = rows.rows.float()
