"""Another base format for one layer of a live model."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from qlora_kernels.checks import InputError, check_shapes
from qlora_kernels.formats import Base, QuantSpec
from qlora_kernels.nn.merging import set_base
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.ops import quantize

# The dense weight, or (a safetensors file or a folder of them, the tensor's name).
Source = torch.Tensor | tuple[str | Path, str]


def requantize(
    layer: QLoRALinear,
    format: str,
    source: Source | None = None,
    block_size: int = 64,
    double_quant: bool = True,
    scale_search: bool = False,
) -> None:
    """`base = quantize(source, format, ...)` in place; adapter, bias and optimizer stay.

    format: as in `quantize`, or "none" for 16 bits. source: the original weight [out, in], or the
    file that holds it and its name there. Without one the weight is what the present codes stand
    for: the error that they made stays (int8 from NF4 has NF4's error), and the new format adds its
    own. A DoRA magnitude is kept; the norm beside it is computed again.

    Raises InputError, before anything is changed, for a source that does not fit or cannot be read,
    what `quantize` refuses, and a layer whose adapter is merged.
    """
    if not isinstance(layer, QLoRALinear):
        was = type(layer).__name__
        raise InputError(f"requantize: layer should be a QLoRALinear, was {was}")
    if layer.unmerged_base is not None:
        raise InputError("requantize: the layer should be unmerged (unmerge_adapter), is merged")
    weight = layer.dequantize().detach() if source is None else _read(source)
    sizes = {"n": layer.out_features, "k": layer.in_features}
    check_shapes("requantize", sizes, source=(weight, "n k"))
    weight = weight.detach().to(layer.weight.device, layer.weight_dtype)
    base: Base
    if format == "none":
        if not weight.isfinite().all():
            raise InputError(f"requantize: source should be finite in {weight.dtype}, was not")
        base = weight.clone()
    else:
        QuantSpec(format, block_size, double_quant, scale_search).check("requantize")
        base = quantize(weight, format, block_size, double_quant, scale_search)
    set_base(layer, base)


def _read(source: Source) -> torch.Tensor:
    if isinstance(source, torch.Tensor):
        return source
    path, name = Path(source[0]), source[1]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 (no mapping)
                    weight: torch.Tensor = tensors.get_tensor(name)
                    return weight
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"requantize: {file} should be a readable safetensors file: {error}"
            ) from None
    raise InputError(f"requantize: {path} should hold a tensor {name}, does not")
