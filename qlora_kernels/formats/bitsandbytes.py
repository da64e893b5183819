"""bitsandbytes' own state-dict keys, read and written without bitsandbytes.

    weight                                  uint8 [bytes, 1] (or the same bytes viewed as a float
    dtype) weight.absmax                           float32 [blocks], or uint8 [blocks] when nested
    weight.quant_map                        float32 [16]
    weight.nested_absmax, nested_quant_map  float32 [ceil(blocks / 256)], float32 [256]
    weight.quant_state.bitsandbytes__nf4    UTF-8 JSON in a uint8 tensor (or ..__fp4)

What bitsandbytes wrote dequantizes to the same bits here, and the other way round. A map whose last
bits differ, as some processors compute the nested one, is read as ours (`codebooks.is_map`).
"""

import torch

from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import NESTED_BLOCK_SIZE, codebook, dynamic_map, is_map
from qlora_kernels.formats.quantized_tensor import QuantizedTensor
from qlora_kernels.formats.state_dict import dtype_named, fact, json_bytes, read_json_bytes

_FOUR_BIT = ("nf4", "fp4")
_WHO = "bitsandbytes state dict"


def _blob_key(prefix: str, format: str) -> str:
    return f"{prefix}.quant_state.bitsandbytes__{format}"


def to_bitsandbytes(q: QuantizedTensor, prefix: str = "weight") -> dict[str, torch.Tensor]:
    """The keys that `Linear4bit.state_dict()` writes; InputError for a format that it lacks."""
    if q.format not in _FOUR_BIT:
        raise InputError(f"{_WHO}: format should be {' or '.join(_FOUR_BIT)}, was {q.format!r}")
    facts: dict[str, object] = {
        "quant_type": q.format,
        "blocksize": q.block_size,
        "dtype": str(q.dtype).removeprefix("torch."),
        "shape": list(q.shape),
    }
    state = {
        prefix: q.codes,
        f"{prefix}.absmax": q.scales,
        f"{prefix}.quant_map": codebook(q.format, q.device).clone(),
    }
    if q.nested_absmax is not None and q.nested_offset is not None:
        state[f"{prefix}.nested_absmax"] = q.nested_absmax
        state[f"{prefix}.nested_quant_map"] = dynamic_map(q.device).clone()
        facts |= {
            "nested_blocksize": NESTED_BLOCK_SIZE,
            "nested_dtype": "float32",
            "nested_offset": q.nested_offset.item(),
        }
    return {**state, _blob_key(prefix, q.format): json_bytes(facts)}


def from_bitsandbytes(state: dict[str, torch.Tensor], prefix: str = "weight") -> QuantizedTensor:
    """The quantized tensor under those keys; InputError if incomplete or on other maps."""
    found = [f for f in _FOUR_BIT if _blob_key(prefix, f) in state]
    missing = [k for k in (prefix, f"{prefix}.absmax") if k not in state]
    if not found or missing:
        wanted = missing or [_blob_key(prefix, "nf4")]
        raise InputError(f"{_WHO}: should hold {', '.join(wanted)}, holds {sorted(state)}")
    facts = read_json_bytes(state[_blob_key(prefix, found[0])])
    codes = state[prefix].contiguous().view(torch.uint8).reshape(-1, 1)
    _check_map(state, f"{prefix}.quant_map", codebook(found[0], codes.device))
    nested_absmax = state.get(f"{prefix}.nested_absmax")
    nested_offset = None
    if nested_absmax is not None:
        _check_map(state, f"{prefix}.nested_quant_map", dynamic_map(codes.device))
        if facts.get("nested_blocksize") != NESTED_BLOCK_SIZE:
            raise InputError(
                f"{_WHO}: nested_blocksize should be {NESTED_BLOCK_SIZE}, "
                f"was {facts.get('nested_blocksize')}"
            )
        offset = fact(_WHO, facts, "nested_offset", float)
        nested_offset = torch.tensor(offset, dtype=torch.float32, device=codes.device)
        nested_absmax = nested_absmax.float()
    q = QuantizedTensor(
        codes,
        state[f"{prefix}.absmax"],
        nested_absmax,
        nested_offset,
        fact(_WHO, facts, "shape", torch.Size),
        fact(_WHO, facts, "dtype", dtype_named),
        found[0],
        fact(_WHO, facts, "blocksize", int),
    )
    q.check(_WHO)
    return q


def _check_map(state: dict[str, torch.Tensor], key: str, ours: torch.Tensor) -> None:
    theirs = state.get(key)
    if theirs is not None and not is_map(theirs, ours):
        raise InputError(f"{_WHO}: {key} should be the standard map, was another")
