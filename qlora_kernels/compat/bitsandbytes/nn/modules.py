"""The layers by the module in which bitsandbytes defines them."""

from qlora_kernels.compat.bitsandbytes.absent import absent
from qlora_kernels.compat.bitsandbytes.nn.embedding import (
    Embedding,
    Embedding4bit,
    EmbeddingFP4,
    EmbeddingNF4,
    StableEmbedding,
)
from qlora_kernels.compat.bitsandbytes.nn.linear4bit import Linear4bit, LinearFP4, LinearNF4
from qlora_kernels.compat.bitsandbytes.nn.params4bit import Params4bit

__all__ = [
    "Embedding",
    "Embedding4bit",
    "Embedding8bit",
    "EmbeddingFP4",
    "EmbeddingNF4",
    "Int8Params",
    "Linear4bit",
    "Linear8bitLt",
    "LinearFP4",
    "LinearNF4",
    "OutlierAwareLinear",
    "Params4bit",
    "StableEmbedding",
]

_INSTEAD = 'LLM.int8() is not; QLoRAConfig(format="int8") makes 8-bit layers of qlora_kernels'
Embedding8bit = absent("Embedding8bit", _INSTEAD)
Int8Params = absent("Int8Params", _INSTEAD)
Linear8bitLt = absent("Linear8bitLt", _INSTEAD)
OutlierAwareLinear = absent("OutlierAwareLinear", _INSTEAD)
