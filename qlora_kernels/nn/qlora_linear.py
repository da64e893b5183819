"""The layer: a frozen quantized base and an optional low-rank adapter; state, no maths."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from qlora_kernels.checks import InputError, check_shapes
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.formats.state_dict import json_bytes, read_json_bytes
from qlora_kernels.nn.casting import Cast, casting_only
from qlora_kernels.nn.column_norm import ColumnNorm
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.kept_linear import KeptLinear
from qlora_kernels.ops import Linear, dequantize, dora_column_norm, qlora_linear_group, quantize

ADAPTER_PARTS = ("lora_a", "lora_b", "lora_magnitude")

_SCALES = ("scales", "nested_absmax", "nested_offset")


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, whose weight is stored [in, out]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


class QLoRALinear(nn.Linear):
    """`y = x W^T + s (drop(x A^T)) B^T + bias` with W frozen in 4 or 8 bits (or 16, format "none").

    An `nn.Linear` for whoever asks; `weight` holds the codes, uint8 [bytes, 1] (the dense [out, in]
    weight with format "none"), and the scales are buffers. `lora_a` [rank, in] and `lora_b`
    [out, rank] are float32 parameters, or None in a layer without adapter; `lora_magnitude` [out]
    makes it DoRA, `g * (x W^T + s (drop(x A^T)) B^T) + bias`. Neither scales nor adapters (a
    trained bias is part of one) are cast by `.to(dtype)`. Drops in train mode only. Make one with
    `from_linear`.

    DoRA's norm is kept from one step of a torch optimizer to the next: whoever changes factors in
    another way calls `column_norm.forget()`.
    """

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None
    lora_magnitude: nn.Parameter | None
    scales: torch.Tensor
    nested_absmax: torch.Tensor | None
    nested_offset: torch.Tensor | None
    shared_input: Any = None  # a SharedInput while its parent's forward runs

    def __init__(self, base: Base, bias: torch.Tensor | None = None) -> None:
        """A layer over a base weight [out, in], without adapter."""
        super(nn.Linear, self).__init__()  # not nn.Linear's own: it would allocate a dense weight
        sizes = check_shapes("QLoRALinear", base=(base, "n k"), bias=(bias, "n"))
        self.out_features, self.in_features = sizes["n"], sizes["k"]
        self.weight_dtype = base.dtype
        self.format, self.block_size = "none", 0
        if isinstance(base, QuantizedTensor):
            self.format, self.block_size = base.format, base.block_size
        codes = base.codes if isinstance(base, QuantizedTensor) else base
        self.weight = nn.Parameter(codes.detach(), requires_grad=False)
        for name in _SCALES:
            self.register_buffer(name, getattr(base, name, None))
        frozen = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", frozen)
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)
        self.register_parameter("lora_magnitude", None)
        self.column_norm = ColumnNorm()
        self.kept_linear = KeptLinear()
        self.alpha, self.rslora = 0.0, False
        self.dropout, self.dropout_on = 0.0, "rank"
        self.adapter_enabled = True
        self.unmerged_base: Base | None = None  # what `merge_adapter` replaced

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        config: QLoRAConfig,
        name: str = "",
        adapt: bool = True,
        importance: torch.Tensor | None = None,
    ) -> "QLoRALinear":
        """Quantize an `nn.Linear` (or GPT-2's Conv1D, transposed) and give it a fresh adapter.

        name: the layer's, for the config's patterns. adapt=False leaves the adapter out.
        importance: see `quantize`. Raises InputError for a module that is neither, and for a weight
        that is not finite.
        """
        if isinstance(linear, nn.Linear) and not isinstance(linear, cls):
            weight = linear.weight.detach()
        elif is_conv1d(linear):
            weight = linear.get_parameter("weight").detach().T.contiguous()
        else:
            raise InputError(
                f"QLoRALinear: linear should be an nn.Linear, was {type(linear).__name__}"
            )
        base: Base = weight
        spec = config.spec_of(name)
        if spec is not None:
            base = quantize(weight, **asdict(spec), importance=importance)
        elif not weight.is_meta and not weight.isfinite().all():
            raise InputError("QLoRALinear: weight should be finite, was not")
        bias = None if linear.bias is None else linear.get_parameter("bias")
        layer = cls(base, bias).train(linear.training)
        if adapt:
            layer.add_adapter(config, name)
        return layer

    def add_adapter(self, config: QLoRAConfig, name: str = "") -> None:
        """Give the layer a fresh trainable adapter: A by `config.init`, B zero.

        DoRA's magnitude is the norm, so that the layer starts from the base.
        """
        rank = config.rank_of(name)
        a = torch.empty(rank, self.in_features, dtype=torch.float32, device=self.weight.device)
        if config.init == "gaussian":
            nn.init.normal_(a, std=1 / rank)
        else:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        b = torch.zeros(self.out_features, rank, dtype=torch.float32, device=self.weight.device)
        magnitude = dora_column_norm(self.base, Adapter(a, b, 0.0)) if config.dora else None
        self.set_adapter(a, b, config.alpha_of(name), config.rslora, magnitude)
        self.dropout, self.dropout_on = config.dropout, config.dropout_on

    def set_adapter(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        alpha: float,
        rslora: bool = False,
        magnitude: torch.Tensor | None = None,
    ) -> None:
        """Take these factors, a [rank, in] and b [out, rank]; in place where shapes agree.

        magnitude: [out] for DoRA; None makes the layer plain LoRA.
        """
        self._check_unmerged("set_adapter")
        sizes = {"k": self.in_features, "n": self.out_features}
        check_shapes("set_adapter", sizes, a=(a, "r k"), b=(b, "n r"), magnitude=(magnitude, "n"))
        for name, factor in zip(ADAPTER_PARTS, (a, b, magnitude), strict=True):
            held = getattr(self, name)
            if factor is None:
                setattr(self, name, None)
            elif held is not None and held.shape == factor.shape:
                held.data.copy_(factor)
            else:
                own = torch.empty(factor.shape, dtype=torch.float32, device=self.weight.device)
                setattr(self, name, nn.Parameter(own.copy_(factor.detach())))
        self.alpha, self.rslora = alpha, rslora
        self.column_norm.forget()

    def remove_adapter(self) -> None:
        """Leave the frozen base alone."""
        self._check_unmerged("remove_adapter")
        self.lora_a = self.lora_b = self.lora_magnitude = None

    @property
    def base(self) -> Base:
        """The frozen weight [out, in] as the op takes it."""
        if self.format == "none":
            return self.weight
        return QuantizedTensor(
            self.weight,
            self.scales,
            self.nested_absmax,
            self.nested_offset,
            torch.Size((self.out_features, self.in_features)),
            self.weight_dtype,
            self.format,
            self.block_size,
        )

    @property
    def scaling(self) -> float:
        """s: alpha / rank, or alpha / sqrt(rank) with rsLoRA; 0 without adapter."""
        if self.lora_a is None:
            return 0.0
        rank = self.lora_a.shape[0]
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    @property
    def adapter(self) -> Adapter | None:
        """The adapter as the op takes it, its dropout included whatever the mode.

        None without, and while it is merged into the base.
        """
        if self.lora_a is None or self.lora_b is None or self.unmerged_base is not None:
            return None
        return Adapter(
            self.lora_a,
            self.lora_b,
            self.scaling,
            self.dropout,
            self.dropout_on,
            self.lora_magnitude,
        )

    @property
    def W_q(self) -> torch.Tensor:
        """The codes, by the name under which peft looks for a quantized weight."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """The base weight, dense [out, in], in its original dtype."""
        base = self.base
        return dequantize(base) if isinstance(base, QuantizedTensor) else base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]; under autocast in its dtype, else in x's."""
        shared = self.shared_input  # read once: another thread may end it
        if shared is not None:
            y: torch.Tensor = shared.output(self, x)
            return y
        return forward_all([self], x)[0]

    def _apply(self, fn: Cast, recurse: bool = True) -> Any:
        """Move everything, but cast only a frozen bias and an unquantized weight."""
        castable = [self.weight]
        if self.bias is not None and not self.bias.requires_grad:
            castable.append(self.bias)
        self.kept_linear.forget()
        result = super()._apply(casting_only(fn, castable), recurse)  # type: ignore[no-untyped-call]
        if self.format == "none":
            self.weight_dtype = self.weight.dtype
        self.column_norm.forget()
        return result

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self.kept_linear.forget()
        super()._load_from_state_dict(*arguments, **named)
        self.column_norm.forget()

    def _check_unmerged(self, who: str) -> None:
        if self.unmerged_base is not None:
            raise InputError(f"{who}: the layer should be unmerged (unmerge_adapter), is merged")

    def get_extra_state(self) -> torch.Tensor:
        """What the codes mean, as a tensor that any state dict can hold."""
        facts: dict[str, object] = {"format": self.format, "block_size": self.block_size}
        if self.unmerged_base is not None:
            facts["merged"] = True  # beside its adapter, it would count twice
        return json_bytes(facts)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse codes of another format, which could have the same shapes, and merged ones."""
        stored, own = read_json_bytes(state), read_json_bytes(self.get_extra_state())
        if stored != own:
            raise InputError(f"QLoRALinear: the state dict should hold {own}, holds {stored}")

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        rank = 0 if self.lora_a is None else self.lora_a.shape[0]
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"format={self.format}, rank={rank}, bias={self.bias is not None}"
            + (", dora=True" if self.lora_magnitude is not None else "")
        )


def forward_all(layers: Sequence[QLoRALinear], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """y [..., out_i] of every layer for one x, in one op call."""
    dtype = autocast_dtype(x.device.type)
    return qlora_linear_group(x if dtype is None else x.to(dtype), [linear_of(m) for m in layers])


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """What autocast casts inputs to, where it is on."""
    if not torch._C._is_any_autocast_enabled():  # of all devices, in a third of the time
        return None
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def linear_of(layer: QLoRALinear) -> Linear:
    """The layer as the op takes it: without a disabled adapter, dropping in train mode only."""
    if torch.compiler.is_compiling():
        kept = _without_norm(layer)
    else:
        kept = layer.kept_linear.of(_parts(layer), lambda: _without_norm(layer))
    if kept.adapter is None or kept.adapter.magnitude is None:
        return kept
    return replace(kept, column_norm=layer.column_norm.of(layer.base, kept.adapter))


def _without_norm(layer: QLoRALinear) -> Linear:
    adapter = layer.adapter if layer.adapter_enabled else None
    if adapter is not None and not layer.training and adapter.dropout:
        adapter = replace(adapter, dropout=0.0)
    return Linear(layer.base, adapter, layer.bias)


# Of `_parameters` and of `_buffers`, in the order in which they are registered.
_TENSORS = ("weight", "bias", *ADAPTER_PARTS, *_SCALES)
_facts = itemgetter(
    "weight_dtype", "alpha", "rslora", "dropout", "dropout_on", "adapter_enabled", "training",
    "unmerged_base",
)  # fmt: skip


def _parts(layer: QLoRALinear) -> tuple[Any, ...]:
    """All that `_without_norm` reads and anybody may replace."""
    parameters, buffers = layer._parameters, layer._buffers
    tensors: tuple[Any, ...]
    if (*parameters, *buffers) == _TENSORS:
        tensors = (*parameters.values(), *buffers.values())
    else:  # A parametrized tensor is a property, made anew each time; a replica has attributes.
        tensors = tuple([getattr(layer, name) for name in _TENSORS])
    return (*tensors, *_facts(layer.__dict__))
