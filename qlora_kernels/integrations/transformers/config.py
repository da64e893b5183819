"""What `from_pretrained` is asked for; `config.json` of a saved model carries it."""

from dataclasses import dataclass, field

from transformers.utils.quantization_config import QuantizationConfigMixin

from qlora_kernels.checks import InputError
from qlora_kernels.formats import QuantSpec
from qlora_kernels.formats.state_dict import QUANT_METHOD
from qlora_kernels.nn import QLoRAConfig


@dataclass
class NF4Config(QuantizationConfigMixin):
    """The base format of a model: the fields of `QLoRAConfig` that say how weights are stored.

    format: "nf4", "fp4", "int8" or "nf4-tuned", or per layer, {"down_proj": "int8", "*": "nf4"},
    where "none" leaves layers as they are. block_size, double_quant, scale_search: see `quantize`.
    skip_modules: linear layers to leave as they are, besides the head: starts or ends of names, or
    regular expressions for a start, as transformers takes them.

    Layers compute in the dtype of their input, so what `from_pretrained(dtype=...)` says is also
    the compute dtype. Raises InputError for any value that makes no sense.
    """

    format: str | dict[str, str] = "nf4"
    block_size: int = 64
    double_quant: bool = True
    scale_search: bool = False
    skip_modules: list[str] = field(default_factory=list)
    # An enum of transformers' own, unless a plug-in brings another.
    quant_method: str = field(default=QUANT_METHOD, kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check every field."""
        self.skip_modules = list(self.skip_modules)
        if self.quant_method != QUANT_METHOD:
            was = repr(self.quant_method)
            raise InputError(f"NF4Config: quant_method should be {QUANT_METHOD}, was {was}")
        if self.layers.formats[0] == "none" and not self.layers.format_pattern:
            raise InputError("NF4Config: format should quantize something, was none")

    def spec_of(self, name: str) -> QuantSpec | None:
        """How the layer of that name is quantized; None: not at all."""
        return self.layers.spec_of(name)

    @property
    def layers(self) -> QLoRAConfig:
        """The same as our layers are asked for, without adapters."""
        return QLoRAConfig(
            targets=(),
            format=self.format,
            block_size=self.block_size,
            double_quant=self.double_quant,
            scale_search=self.scale_search,
        )
