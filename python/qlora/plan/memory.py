"""Memory of a fine-tune by component.

    codes        ceil(n k / values per byte) of each linear layer       head and embeddings: not
    scales       blocks + 4 ceil(blocks / 256) + 4 double-quantized, else 4 blocks;
                 blocks = ceil(n k / block size)
    weights      d n k, where the base is not quantized                 t n k, where it is trained
    embeddings   d v h, twice if the head has its own weight
    small        norms and biases, d each
    adapters     t r (n + k) of each target; DoRA: + t n magnitudes + 8 n cached norms
    gradients    t of each trained parameter
    optimizer    8 of each trained parameter, or 2 (1 + 4 / 256) in 8 bits where it has 4,096
                 elements or more, then + 4 for a float32 master if t = 2
    activations  see `qlora.plan.activations`
    logits       d v rows + d m h: a chunk and the gradient of its input; + 2 d v h of a trained
                 head, whose gradient is made in forward and scaled in backward;
                 rows = min(m, 256 MiB / (d v)), since the head runs in chunks; on a CPU 0 for a
                 frozen head, whose logits stay in cache, else twice 64 MiB of float32
    workspace    d m (3 i + 2 h), gradients inside one block, + d n k, the largest layer decoded,
                 which a CPU's kernels never hold

m tokens, d and t bytes of an activation and of a trained number, v vocabulary, h hidden size, i
intermediate size. The sum is a bound: activations are freed while gradients fill, so the peak is
below it by the smaller of the two in a step of one pass, and reaches it with `--accumulate`.
Full fine-tuning computes in the dtype of its weights. Not counted: the driver's context, Python and
an allocator's waste (`--reserve`).

Sources: QLoRA, arXiv 2305.14314, sections 2 and 3 (16-bit AdamW takes 12 bytes per weight, double
quantization 0.127 bits); LoRA, arXiv 2106.09685, section 4.2; DoRA, arXiv 2402.09353, section 4.3;
the formats of `qlora_kernels`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import qlora_kernels as qk
from qlora.plan.activations import Kept
from qlora.plan.architecture import Architecture, Linear
from qlora.plan.settings import Method, PlanSettings
from qlora.train.budget import Budget
from qlora_kernels.errors import InputError
from qlora_kernels.formats import QuantSpec
from qlora_kernels.nn.targets import matched_names

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LOGIT_CHUNK_BYTES = 256 * 2**20  # of `linear_cross_entropy` on a GPU
PLAIN_CHUNK_BYTES = 64 * 2**20  # of its float32 logits in plain torch; their gradient is a copy
STATE_BLOCK, LEAST_QUANTIZED = 256, 4096  # of `qk.optim.AdamW`
PAGE_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Forecast:
    """What one method takes, for these settings."""

    model: Architecture
    settings: PlanSettings
    method: Method

    @cached_property
    def components(self) -> dict[str, int]:
        """Bytes by component, all of them, also those that are 0."""
        fixed = {**self._base(), "adapters": self._adapters()}
        fixed["gradients"] = self.trained * self._trained_bytes
        passing = {
            "activations": self._kept().of_model(
                self.settings.tokens, self.settings.gradient_checkpointing
            ),
            "logits": self._logits(),
            "workspace": self._workspace(),
        }
        rest = sum(fixed.values()) + sum(passing.values())
        return {**fixed, "optimizer": self._resident_states(rest), **passing}

    def changed(self, **settings: Any) -> "Forecast":
        """With other settings."""
        return replace(self, settings=replace(self.settings, **settings))

    @property
    def total(self) -> int:
        """Bytes of all components."""
        return sum(self.components.values())

    @cached_property
    def trained(self) -> int:
        """Trainable parameters."""
        return sum(self._parameters())

    @cached_property
    def adapted(self) -> tuple[Linear, ...]:
        """The layers that have an adapter."""
        if self.method == "full":
            return ()
        layers = {layer.name: layer for layer in self.model.linears()}
        config = qk.QLoRAConfig(rank=self.settings.rank, targets=self.settings.targets)
        try:
            return tuple(layers[name] for name in matched_names(list(layers), (), config))
        except InputError as error:
            reason = str(error).partition(": ")[2]
            raise InputError(f"plan: {reason}") from None

    @property
    def fits(self) -> bool:
        """Whether it does, where --memory says what there is."""
        return self.settings.memory_bytes is None or self.total <= self.settings.memory_bytes

    @property
    def quantized(self) -> bool:
        """Whether the base is."""
        return self.method in ("qlora", "dora") and self.settings.format != "none"

    @property
    def _trained_bytes(self) -> int:
        return DTYPE_BYTES[self.settings.trained_dtype]

    @property
    def _bytes_each(self) -> int:
        """Of an activation, and of a weight that is neither quantized nor an adapter's."""
        return self._trained_bytes if self.method == "full" else DTYPE_BYTES[self.settings.dtype]

    def _base(self) -> dict[str, int]:
        model, d = self.model, self._bytes_each
        codes = scales = 0
        if self.quantized:
            for layer in model.block:
                codes += self.settings.spec.num_code_bytes(layer.weights)
                scales += scale_bytes(self.settings.spec, layer.weights)
        return {
            "codes": codes * model.blocks,
            "scales": scales * model.blocks,
            "weights": 0 if self.quantized else d * model.linear_weights,
            "embeddings": d * model.embedding_weights,
            "small": d * model.small_weights,
        }

    def _adapters(self) -> int:
        if self.method == "full":
            return 0
        norms = 8 * sum(layer.n for layer in self.adapted) if self.method == "dora" else 0
        return self.trained * self._trained_bytes + norms

    def _parameters(self) -> Iterator[int]:
        """Elements of each trained parameter."""
        if self.method == "full":
            yield from (layer.weights for layer in self.model.linears())
            yield self.model.embedding_weights
            yield self.model.small_weights
        for layer in self.adapted:
            yield self.settings.rank * layer.k
            yield self.settings.rank * layer.n
            if self.method == "dora":
                yield layer.n

    def _states(self) -> int:
        """Bytes of the optimizer, wherever they are."""
        if "8bit" not in self.settings.optimizer:
            return 8 * self.trained
        master = 4 * (self._trained_bytes == 2)
        return sum(state_bytes(count) + master * count for count in self._parameters())

    def _resident_states(self, rest: int) -> int:
        """Of them, what is in memory beside the `rest`."""
        states = self._states()
        if not self.settings.paged:
            return states
        if text := self.settings.optimizer_memory:
            return min(states, Budget.read("plan: optimizer_memory", text).bytes_of(states))
        if (memory := self.settings.memory_bytes) is not None:
            return min(states, max(memory - rest, 4 * PAGE_BYTES))
        return states

    def _kept(self) -> Kept:
        whole = self.method == "full"
        layers = self.model.block
        names = {layer.name for layer in self.adapted}
        trained = {x.name for x in layers if whole or any(n.endswith(x.name) for n in names)}
        masked = self.settings.sequence_length if self.settings.packing else 0
        return Kept(self.model, trained, whole, self.method == "dora", self._bytes_each, masked)

    def _logits(self) -> int:
        d, v, m = self._bytes_each, self.model.vocabulary, self.settings.tokens
        h, trained = self.model.hidden, self.method == "full"
        if self.settings.device == "gpu":
            chunk = d * v * min(m, max(1, LOGIT_CHUNK_BYTES // (d * v)))
        else:
            chunk = 2 * 4 * v * min(m, max(1, PLAIN_CHUNK_BYTES // (4 * v))) * trained
        return chunk + d * m * h + 2 * d * v * h * trained

    def _workspace(self) -> int:
        d, model = self._bytes_each, self.model
        decodes = self.quantized and self.settings.device == "gpu"
        decoded = max(layer.weights for layer in model.block) if decodes else 0
        flowing = self.settings.tokens * (3 * model.intermediate + 2 * model.hidden)
        return d * (flowing + decoded)


def scale_bytes(spec: QuantSpec, weights: int) -> int:
    """Of one layer."""
    if not spec.double_quant:
        return 4 * spec.num_blocks(weights)
    return spec.num_blocks(weights) + 4 * spec.num_nested_blocks(weights) + 4


def state_bytes(count: int) -> int:
    """Both 8-bit moments of one parameter with their scales; in 32 bits if it is small."""
    if count < LEAST_QUANTIZED:
        return 8 * count
    return 2 * (count + 4 * -(-count // STATE_BLOCK))
