"""The layers by the module in which bitsandbytes defines them."""

from qlora_kernels.compat.bitsandbytes.nn.linear4bit import Linear4bit, LinearFP4, LinearNF4
from qlora_kernels.compat.bitsandbytes.nn.params4bit import Params4bit

__all__ = ["Linear4bit", "LinearFP4", "LinearNF4", "Params4bit"]
