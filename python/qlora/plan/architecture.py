"""The shape of a causal language model: all that its memory depends on."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What the models of one `model_type` share and their config.json need not say.

    gated: gate, up and down instead of two layers. norms: in a block, over the hidden state.
    qkv_bias, bias: of q, k and v; of every other layer too. head_norms: over each head of q and k.
    float_norms: scaled in float32, rounded afterwards.
    gpt2: q, k and v are one layer, norms have biases, positions are learned, dropout is on.
    """

    gated: bool = True
    norms: int = 2
    qkv_bias: bool = False
    bias: bool = False
    head_norms: bool = False
    float_norms: bool = False
    gpt2: bool = False


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(head_norms=True),
    # Not gemma2: its attention is not fused, so it keeps probabilities.
    "gemma": Family(float_norms=True),
    "gemma3_text": Family(norms=4, head_norms=True, float_norms=True),
    "gpt2": Family(gated=False, qkv_bias=True, bias=True, gpt2=True),
}


@dataclass(frozen=True)
class Linear:
    """`y = x W^T`, W [n, k]."""

    name: str
    n: int
    k: int
    bias: bool

    @property
    def weights(self) -> int:
        """n k."""
        return self.n * self.k


@dataclass(frozen=True)
class Architecture:
    """Sizes as config.json has them.

    longest: positions that the model was made for, where that is known.
    """

    name: str
    family: str
    vocabulary: int
    hidden: int
    blocks: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    tied: bool = False
    longest: int | None = None

    @property
    def traits(self) -> Family:
        """Of the family."""
        return FAMILIES[self.family]

    @property
    def query(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_size

    @property
    def key_value(self) -> int:
        """Width of all keys, and of all values."""
        return self.key_value_heads * self.head_size

    @property
    def block(self) -> tuple[Linear, ...]:
        """The linear layers of one block; names as they end in the model."""
        traits, h, i = self.traits, self.hidden, self.intermediate
        if traits.gpt2:
            return (
                Linear("attn.c_attn", 3 * h, h, True),
                Linear("attn.c_proj", h, h, True),
                Linear("mlp.c_fc", i, h, True),
                Linear("mlp.c_proj", h, i, True),
            )
        return (
            Linear("self_attn.q_proj", self.query, h, traits.qkv_bias),
            Linear("self_attn.k_proj", self.key_value, h, traits.qkv_bias),
            Linear("self_attn.v_proj", self.key_value, h, traits.qkv_bias),
            Linear("self_attn.o_proj", h, self.query, traits.bias),
            Linear("mlp.gate_proj", i, h, traits.bias),
            Linear("mlp.up_proj", i, h, traits.bias),
            Linear("mlp.down_proj", h, i, traits.bias),
        )

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head, by its full name."""
        prefix = "transformer.h" if self.traits.gpt2 else "model.layers"
        for place in range(self.blocks):
            for layer in self.block:
                yield Linear(f"{prefix}.{place}.{layer.name}", layer.n, layer.k, layer.bias)

    @property
    def linear_weights(self) -> int:
        """Of the layers that are quantized."""
        return self.blocks * sum(layer.weights for layer in self.block)

    @property
    def embedding_weights(self) -> int:
        """Embedding, head where it has its own weight, and learned positions."""
        positions = self.longest or 0 if self.traits.gpt2 else 0
        return (self.vocabulary * (1 if self.tied else 2) + positions) * self.hidden

    @property
    def small_weights(self) -> int:
        """Norms and biases."""
        per_norm = 2 if self.traits.gpt2 else 1
        norms = (self.traits.norms * self.blocks + 1) * self.hidden * per_norm
        head_norms = 2 * self.head_size * self.blocks if self.traits.head_norms else 0
        return norms + head_norms + self.blocks * sum(x.n for x in self.block if x.bias)

    @property
    def weights(self) -> int:
        """All parameters."""
        return self.linear_weights + self.embedding_weights + self.small_weights
