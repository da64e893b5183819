"""What forward keeps for backward.

    block = norms 4 h + inputs of trained layers d k + queries, keys, values d (q + 2 kv)
            + attention d q + 4 heads + feed-forward 3 d i + DoRA d n
            packed: keys and values d 2 q instead, + mask d length
    kept  = m (blocks block + last norm 4 h)                    without checkpointing
    kept  = m (blocks d h + block)                              with: inputs, and one block again,
                                                                when the last norm is done with

m tokens, d bytes of an activation, h hidden size, i intermediate size, q and kv the widths of all
queries and of all keys, k and n a layer's input and output, in bytes for each token. Norms keep a
float32 copy of their input; attention is fused: it keeps its output and one float32 per head, no
probabilities. Rows of several examples need a mask, with which transformers repeats keys and values
for every query head, and torch makes numbers of truth values in every layer. The product of gate
and up is the input of down, and is kept if down is trained. Layers that read one tensor (q, k and
v; gate and up) keep it once. Adapters' dropout keeps nothing: its masks are drawn again. Source:
the modules of transformers with `qk.qlora_linear`, whose saved tensors the tests count; the terms
are those of Korthikanti et al., arXiv 2205.05198, section 4, for these modules.
"""

from collections.abc import Collection
from dataclasses import dataclass

from qlora.plan.architecture import Architecture, Family, Linear

# Attention keeps v as it comes (q and k are rotated first), the activation gate, the product up.
READ_AGAIN = {"self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"}
MASK_BYTES = 1  # torch's dropout keeps a truth value for each element


@dataclass(frozen=True)
class Kept:
    """Which terms count.

    trained: names of a block's layers whose weight or adapter gets a gradient. whole: norms and
    everything else too. dora: their outputs are kept for the magnitudes, where nothing else does.
    masked: length of rows whose attention has a mask, 0 without one.
    """

    model: Architecture
    trained: Collection[str]
    whole: bool
    dora: bool
    bytes_each: int  # of an activation
    masked: int = 0

    def of_block(self) -> int:
        """Bytes for each token of one block."""
        model, d = self.model, self.bytes_each
        total = self._norms() + self._inputs()
        key_value = model.query if self._repeats else model.key_value
        total += d * (2 * model.query + 2 * key_value + self.masked) + 4 * model.heads
        total += self._feed_forward()
        if self.dora:
            total += d * sum(layer.n for layer in self._kept_outputs())
        return total

    def of_model(self, tokens: int, checkpointing: bool) -> int:
        """Bytes of all tokens."""
        block, model = self.of_block(), self.model
        if checkpointing:
            return tokens * (model.blocks * self.bytes_each * model.hidden + block)
        first = 0 if self.whole else self._norm()  # its input needs no gradient
        return tokens * (model.blocks * block + self._norm() - first)

    def _kept_outputs(self) -> list[Linear]:
        """Adapted layers whose output nobody else keeps: a bias makes another tensor of it."""
        shared = READ_AGAIN - ({"self_attn.v_proj"} if self._repeats else set())
        if self.bytes_each == 4:  # a norm's float32 copy is its input itself
            shared |= {"self_attn.q_proj", "self_attn.k_proj"} if self._traits.head_norms else set()
            shared |= {"self_attn.o_proj", "mlp.down_proj"} if self._traits.norms == 4 else set()
        return [
            layer
            for layer in self.model.block
            if layer.name in self.trained and (layer.bias or layer.name not in shared)
        ]

    @property
    def _repeats(self) -> bool:
        """Whether keys and values are copied, one for every query head."""
        return self.masked > 0 and self.model.key_value < self.model.query

    @property
    def _traits(self) -> Family:
        return self.model.traits

    @property
    def _of_norm(self) -> int:
        """Bytes that a norm keeps of one number."""
        scaled = 4 if self._traits.float_norms else self.bytes_each
        return 4 + scaled * self.whole

    def _norm(self) -> int:
        """Of one norm: GPT-2's takes what it is given, the others a float32 copy."""
        d, h = self.bytes_each, self.model.hidden
        if self.model.traits.gpt2:
            return d * h
        return self._of_norm * h

    def _norms(self) -> int:
        model = self.model
        total = model.traits.norms * self._norm()
        if model.traits.gpt2:
            total += 2 * MASK_BYTES * model.hidden
        if model.traits.head_norms:
            total += self._of_norm * (model.query + model.key_value)
        return total

    def _inputs(self) -> int:
        """Of what several layers read; attention's output and the last product count elsewhere."""
        heads = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "attn.c_attn"}
        forward = {"mlp.gate_proj", "mlp.up_proj", "mlp.c_fc"}
        read = sum(not group.isdisjoint(self.trained) for group in (heads, forward))
        return self.bytes_each * self.model.hidden * read

    def _feed_forward(self) -> int:
        """Gate, its activation and up; GPT-2's activation is made of steps that keep four."""
        last = not {"mlp.down_proj", "mlp.c_proj"}.isdisjoint(self.trained)
        steps = 3 if self.model.traits.gated else 4
        return self.bytes_each * self.model.intermediate * (steps + last)
