"""Every weight that training quantizes becomes its codes; everything else is copied."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import qlora_kernels as qk
from qlora.export.checkpoint import Progress, Rewrite, change_config, rewrite_model
from qlora.export.codes import Stored
from qlora.export.plan import Plan, plan_of
from qlora.export.tensor_files import shards_of
from qlora.quantize.calibration import importance_of
from qlora.quantize.stored import METHOD, stored_method
from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder, write_text
from qlora_kernels.formats import QuantSpec

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class LayerLoss:
    """What a layer lost: error is |w - w_q| / |w|; bytes before and after."""

    error: float
    dense_bytes: int
    quantized_bytes: int


def quantize_folder(
    model: Path,
    output: Path,
    spec: QuantSpec,
    progress: Progress,
    calibration: Path | None = None,
) -> dict[str, Any]:
    """Write `output`, whole or not at all; returns what its report.json says.

    calibration: a text whose activations weigh the errors of the search.

    Raises InputError for a folder that holds no dense causal language model with all of its tensors
    under the names that transformers gives them, and for weights that are not finite.
    """
    if method := stored_method(model):
        raise InputError(f"quantize: {model} should be dense, is quantized already ({method})")
    plan = plan_of(model, None, qk.QLoRAConfig(**asdict(spec)))
    _check_loadable(plan, model)
    losses: dict[str, LayerLoss] = {}
    importance = importance_of(model, calibration, progress) if calibration else {}
    with whole_folder(output) as temporary:
        rewrite_model(plan, model, temporary, into_codes(plan, losses, importance), progress)
        change_config(temporary, quantization_config={"quant_method": METHOD, **asdict(spec)})
        report = {"calibrate": calibration and str(calibration), **_report(model, spec, losses)}
        write_text(temporary / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    return report


def into_codes(
    plan: Plan, losses: dict[str, LayerLoss], importance: Mapping[str, torch.Tensor]
) -> Rewrite:
    """`QuantizedTensor.state_dict` under the weight's name; `losses` gets what that cost."""

    def rewrite(name: str, tensor: Stored) -> Mapping[str, torch.Tensor]:
        assert isinstance(tensor, torch.Tensor)  # the model is dense
        if not plan.quantizes(name):
            return {name: tensor}
        layer = name.removesuffix(".weight")
        try:
            q = plan.base(name, tensor, importance.get(layer))
        except InputError as error:
            raise InputError(f"quantize: {name}: {error}") from None
        assert isinstance(q, qk.QuantizedTensor)
        weight = tensor.T if layer in plan.skeleton.transposed else tensor
        lost = qk.quantization_error(weight, q)
        losses[layer] = LayerLoss(lost, tensor.numel() * tensor.itemsize, q.nbytes)
        return q.state_dict(name)

    return rewrite


def _check_loadable(plan: Plan, model: Path) -> None:
    """Refuse what loading could not put together: it takes tensors by their names alone."""
    present = {name for shard in shards_of(model) for name in shard.specs}
    shared = {f"{plan.skeleton.head}.weight"} if plan.skeleton.tied else set()
    if missing := sorted(plan.skeleton.shapes.keys() - present - shared):
        raise InputError(
            f"quantize: {model} should hold {missing[0]}, does not (its tensors have other names: "
            "load and save it with transformers first)"
        )


def _report(model: Path, spec: QuantSpec, losses: Mapping[str, LayerLoss]) -> dict[str, Any]:
    """Layers by their error, the worst first; the mean counts every layer once."""
    worst_first = sorted(losses.items(), key=lambda item: -item[1].error)
    return {
        "model": str(model),
        **asdict(spec),
        "mean_error": sum(loss.error for loss in losses.values()) / max(1, len(losses)),
        "dense_bytes": sum(loss.dense_bytes for loss in losses.values()),
        "quantized_bytes": sum(loss.quantized_bytes for loss in losses.values()),
        "layers": {name: asdict(loss) for name, loss in worst_first},
    }
