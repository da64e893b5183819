"""What a prepared model consists of, in numbers that people ask for."""

from dataclasses import dataclass

from torch import nn

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.nn.surgery import adapter_parameters, quantized_layers


@dataclass(frozen=True)
class Description:
    """Parameters as the field counts them, and the bytes that the quantized weights take."""

    num_parameters: int  # of the frozen base: weights, not codes
    num_trainable: int
    num_quantized: int  # weights held as codes
    quantized_bytes: int  # their codes, scales and scales of scales
    adapted: tuple[str, ...]  # names of the layers with an adapter

    @property
    def trainable_percent(self) -> float:
        """100 x trainable / (base + trainable)."""
        return 100 * self.num_trainable / (self.num_parameters + self.num_trainable)

    @property
    def reduction(self) -> float:
        """How many times fewer parameters are trained than full fine-tuning would."""
        return self.num_parameters / self.num_trainable if self.num_trainable else float("inf")

    @property
    def bytes_per_weight(self) -> float:
        """Of the quantized layers: codes, absmax and nested absmax together."""
        return self.quantized_bytes / self.num_quantized if self.num_quantized else float("nan")

    def __str__(self) -> str:
        """One line for people."""
        text = (
            f"trainable {self.num_trainable:,} of {self.num_parameters:,} parameters "
            f"({self.trainable_percent:.2f} %, {self.reduction:,.0f}x fewer) "
            f"in {len(self.adapted)} layers"
        )
        if self.num_quantized:
            text += f"; {self.bytes_per_weight:.4f} bytes per quantized weight"
        return text


def describe(model: nn.Module) -> Description:
    """Count the parameters and bytes of a prepared model."""
    layers = quantized_layers(model)
    adapters = adapter_parameters(model)
    bases = [b for layer in layers.values() if isinstance(b := layer.base, QuantizedTensor)]
    codes = {id(b.codes) for b in bases} | {id(p) for p in adapters.values()}
    num_quantized = sum(b.numel() for b in bases)
    return Description(
        num_parameters=num_quantized
        + sum(p.numel() for p in model.parameters() if id(p) not in codes),
        num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        num_quantized=num_quantized,
        quantized_bytes=sum(b.nbytes for b in bases),
        adapted=tuple(dict.fromkeys(n.rpartition(".")[0] for n in adapters if ".lora_" in n)),
    )
