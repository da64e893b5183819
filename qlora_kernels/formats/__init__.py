"""What the bits mean: codebooks, the quantized tensor, the adapter, foreign checkpoints."""

from qlora_kernels.formats.adapter import Adapter
from qlora_kernels.formats.quantized_tensor import Base, QuantizedTensor, QuantSpec

__all__ = ["Adapter", "Base", "QuantSpec", "QuantizedTensor"]
