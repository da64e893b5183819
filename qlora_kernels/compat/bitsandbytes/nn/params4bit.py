"""A frozen weight that quantizes itself when it is moved to a device."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qlora_kernels.compat.bitsandbytes.errors import StateError
from qlora_kernels.compat.bitsandbytes.functional import QuantState, quantize_4bit

_KEPT = (
    "blocksize",
    "compress_statistics",
    "quant_type",
    "quant_state",
    "quant_storage",
    "bnb_quantized",
    "module",
)


def _of_state(*path: str) -> property:
    """What the weight tells of its state: FSDP reads a state dict's keys as paths of attributes."""

    def get(self: "Params4bit") -> Any:
        part = self.__dict__.get("quant_state")
        for name in path:
            part = getattr(part, name)  # AttributeError where there is no state, or no nested one
        return part

    return property(get)


class Params4bit(nn.Parameter):
    """An ordinary parameter: the float weight until `.to(device)`, then its packed codes.

    Moving it to any device but meta, `.cpu()` and `.cuda()` included, quantizes it as
    `quantize_4bit` does and fills `quant_state`; from then on it moves bit for bit, and a dtype is
    no reason to cast.
    """

    blocksize: int
    compress_statistics: bool
    quant_type: str
    quant_state: QuantState | None
    quant_storage: torch.dtype
    bnb_quantized: bool
    module: Any

    def __new__(
        cls,
        data: torch.Tensor | None = None,
        requires_grad: bool = False,
        quant_state: QuantState | None = None,
        blocksize: int | None = None,
        compress_statistics: bool = True,
        quant_type: str = "fp4",
        quant_storage: torch.dtype = torch.uint8,
        module: Any = None,
        bnb_quantized: bool = False,
        **kwargs: Any,
    ) -> "Params4bit":
        """data: the float weight, or packed codes with their quant_state and bnb_quantized=True.

        module: the layer that is told the state.
        """
        data = torch.empty(0) if data is None else data
        self: Params4bit = torch.Tensor._make_subclass(cls, data, requires_grad)
        self.blocksize = 64 if blocksize is None else blocksize
        self.compress_statistics = compress_statistics
        self.quant_type = quant_type
        self.quant_state = quant_state
        self.quant_storage = quant_storage
        self.bnb_quantized = bnb_quantized
        self.module = module
        return self

    @classmethod
    def from_prequantized(
        cls,
        data: torch.Tensor,
        quantized_stats: Mapping[str, Any],
        requires_grad: bool = False,
        device: torch.device | str = "cuda",
        module: Any = None,
        **kwargs: Any,
    ) -> "Params4bit":
        """Packed codes and what `QuantState.as_dict` made of their state, on `device`.

        Raises as `QuantState.from_dict` for a part that is missing or unknown.
        """
        state = QuantState.from_dict(quantized_stats, device)
        self = cls(
            data.to(device),
            requires_grad,
            quant_state=state,
            blocksize=state.blocksize,
            compress_statistics=state.nested,
            quant_type=state.quant_type or "fp4",
            quant_storage=data.dtype,
            module=module,
            bnb_quantized=True,
        )
        if module is not None:
            module.quant_state = state
        return self

    absmax = _of_state("absmax")
    code = _of_state("code")
    quant_map = _of_state("code")
    offset = _of_state("offset")
    state2 = _of_state("state2")
    nested_absmax = _of_state("state2", "absmax")
    nested_blocksize = _of_state("state2", "blocksize")
    nested_quant_map = _of_state("state2", "code")
    nested_dtype = _of_state("state2", "dtype")
    nested_offset = _of_state("offset")

    def to(self, *args: Any, **kwargs: Any) -> "Params4bit":
        """Quantize on the way to a device; once quantized, move without a change of bits."""
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if self.bnb_quantized:
            if device is not None and self.quant_state is not None:
                self.quant_state.to(device)
            return self._like(self.data.to(device=device, non_blocking=non_blocking))
        if device is None or device.type == "meta":
            return self._like(self.data.to(device=device, dtype=dtype, non_blocking=non_blocking))
        return self._quantize(device)

    def cpu(self) -> "Params4bit":  # type: ignore[override]
        """`to("cpu")`, which quantizes."""
        return self.to(device="cpu")

    def cuda(  # type: ignore[override]
        self, device: torch.device | int | str | None = None, non_blocking: bool = False
    ) -> "Params4bit":
        """`to("cuda")`, which quantizes."""
        return self.to(device="cuda" if device is None else device, non_blocking=non_blocking)

    def _quantize(self, device: torch.device | str) -> "Params4bit":
        codes, state = quantize_4bit(
            self.data.to(device),
            blocksize=self.blocksize,
            compress_statistics=self.compress_statistics,
            quant_type=self.quant_type,
            quant_storage=self.quant_storage,
        )
        self.data = codes
        self.quant_state = state
        self.bnb_quantized = True
        if self.module is not None:
            self.module.quant_state = state
        return self

    def _like(self, data: torch.Tensor) -> "Params4bit":
        """The same facts over other data."""
        other = Params4bit(data, self.requires_grad)
        other.__dict__.update({name: self.__dict__[name] for name in _KEPT})
        return other

    def __copy__(self) -> "Params4bit":
        return self._like(self.data)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Params4bit":
        other = self._like(copy.deepcopy(self.data, memo))
        memo[id(self)] = other
        other.quant_state = copy.deepcopy(self.quant_state, memo)
        # A layer that is being copied tells its copy; a weight copied alone keeps its layer.
        other.module = memo.get(id(self.module), self.module)
        return other

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The layer holds this weight: what refers to the layer must come after its own record.
        kept = {name: self.__dict__[name] for name in _KEPT}
        return Params4bit, (self.data, self.requires_grad), kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Pieces of a weight are weights with the same facts; everything else is plain."""
        result = super().__torch_function__(  # type: ignore[no-untyped-call]
            func, types, args, kwargs or {}
        )
        if func in (torch.chunk, torch.split, torch.Tensor.chunk, torch.Tensor.split):
            whole = args[0] if args else (kwargs or {})["input"]
            return tuple(whole._like(piece) for piece in result)
        return result


def recover_quant_state(module: nn.Module) -> QuantState:
    """The state of a layer's weight, from the layer if a wrapper made a plain tensor of the weight.

    Raises StateError, an AssertionError and a ValueError, for a weight that was not quantized yet.
    """
    weight = module.get_parameter("weight")
    state = getattr(weight, "quant_state", None)
    if state is None:
        state = getattr(module, "quant_state", None)
        if state is None:
            raise StateError(
                f"{type(module).__name__}: the weight should be quantized, is not yet: "
                'call .to("cpu"), .cuda() or .to(device)'
            )
        if not isinstance(weight, Params4bit):
            weight = Params4bit(weight.data, quant_storage=weight.dtype, bnb_quantized=True)
            weight.module = module
            module.weight = weight
        weight.quant_state = state
        weight.quant_type, weight.blocksize = state.quant_type, state.blocksize
    found: QuantState = state
    return found
