"""One more token of one sequence through a Llama, or one of its kin, without calls of its modules.

    x = x + o(attention(qkv(norm(x))))
    x = x + down(activation(gate) * up),    gate and up of norm(x)

With one row in each layer, calls of modules and what they make anew take longer than arithmetic.
So what stays from token to token is looked at once per answer, and every layer's results go to the
same memory. Only activations, and what is called once a token, are called as modules.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from qlora.cache_room import CacheRoom
from qlora.decoder_checks import GATE_UP, HEAD_NORMS, NORMS, QKV, decoder_layers, linear, refusal
from qlora_kernels.nn.qlora_linear import linear_of
from qlora_kernels.ops.qlora_linear.repeated import RepeatedGroup


def decoder_step(model: Any, cache: Any) -> "DecoderStep | None":
    """The step of a model that is known, once a prompt has filled the cache; or None."""
    return None if refusal(model, cache) is not None else DecoderStep(model, cache)


class DecoderStep:
    """token [1, 1] -> logits [1, 1, vocabulary], those of `model(token, past_key_values=cache)`.

    It appends to the cache. Weights, adapters and norms are those of the time when it was made.
    """

    def __init__(self, model: Any, cache: Any) -> None:
        """For a model and a cache of which there is no `refusal`."""
        layers = decoder_layers(model)
        self._model = model
        self._room = CacheRoom(cache.layers)
        self._row = _Row(layers[0], cache.layers[0].keys)
        self._blocks = [_Block.of(layer, self._row) for layer in layers]

    def __call__(self, token: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """position_ids: the token's, [1, 1]."""
        body, row = self._model.model, self._row
        row.x.copy_(body.embed_tokens(token)[0])
        turn = _Turn.of(*body.rotary_emb(row.x, position_ids))
        for block, kept in zip(self._blocks, self._room.one_more(), strict=True):
            row.x += block.attention(row, turn, *kept)
            row.x += block.feed_forward(row)
        logits: torch.Tensor = self._model.lm_head(body.norm(row.x[None]))
        return logits


class _Turn(NamedTuple):
    """The rotary embedding of one position: (a, b) -> (a, b) * cos + b * left | a * right."""

    cos: torch.Tensor  # [1, head_dim]
    left: torch.Tensor  # [1, head_dim / 2]
    right: torch.Tensor

    @staticmethod
    def of(cos: torch.Tensor, sin: torch.Tensor) -> "_Turn":
        """Both [1, 1, head_dim]."""
        left, right = sin[0].chunk(2, dim=-1)
        return _Turn(cos[0], -left, right)


class _Row:
    """The memory of results of one row, [1, n] or by heads, and views of it."""

    x: torch.Tensor  # [1, hidden]: the sum so far
    added: torch.Tensor  # [1, hidden]: what half a layer adds to it
    gate: torch.Tensor  # [1, intermediate]
    up: torch.Tensor

    def __init__(self, layer: Any, keys: torch.Tensor) -> None:
        """layer: one of the model's, which all have the same sizes."""
        width = layer.self_attn.head_dim
        q, k = (linear(layer, name).out_features for name in QKV[:2])
        num_queries, num_keys = q // width, k // width
        num_turned = num_queries + num_keys
        unturned = keys.new_empty(num_turned, width)
        heads = keys.new_empty(num_turned + num_keys, width)  # q and k turned, and v
        self.x, self.added = keys.new_empty(2, 1, linear(layer, QKV[0]).in_features)
        self.gate, self.up = keys.new_empty(2, 1, linear(layer, GATE_UP[0]).out_features)
        self.qkv = [
            rows.view(1, -1)
            for rows in (unturned[:num_queries], unturned[num_queries:], heads[num_turned:])
        ]
        self.unturned, self._turned = unturned, heads[:num_turned]
        self._halves = (unturned.chunk(2, dim=-1), self._turned.chunk(2, dim=-1))
        self.num_heads = (num_queries, num_keys)
        self.query = heads[:num_queries].view(1, num_queries, 1, width)
        self.key_and_value = heads[num_queries:].view(2, 1, num_keys, width)

    def turn(self, turn: _Turn) -> None:
        """q and k to where `query` and `key_and_value` are."""
        (a, b), (turned_a, turned_b) = self._halves
        torch.mul(self.unturned, turn.cos, out=self._turned)
        turned_a.addcmul_(b, turn.left)
        turned_b.addcmul_(a, turn.right)


class _Norm(NamedTuple):
    """x [1, n] / sqrt(sum x^2 + n eps) * (sqrt(n) weight): torch.rms_norm in half the operators."""

    weight: torch.Tensor  # sqrt(n) weight, float32
    eps: torch.Tensor  # n eps, [1, 1]

    @staticmethod
    def of(module: Any) -> "_Norm":
        """module: with weight [n] and variance_epsilon."""
        weight = module.weight.float()
        n = weight.shape[0]
        return _Norm(weight * math.sqrt(n), weight.new_full((1, 1), n * module.variance_epsilon))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        exact = x.float()
        scale = torch.addmm(self.eps, exact, exact.T).rsqrt_()
        return (exact * self.weight).mul_(scale).to(x.dtype)


class _HeadNorm(NamedTuple):
    """The norm of each head of q and k, in place."""

    weight: torch.Tensor  # [heads, head_dim]
    eps: float

    @staticmethod
    def of(layer: Any, num_heads: tuple[int, int]) -> "_HeadNorm | None":
        """num_heads: of q and k; None for a layer that has no such norm."""
        if not hasattr(layer.self_attn, "q_norm"):
            return None
        norms = [layer.get_submodule(name) for name in HEAD_NORMS]
        rows = [n.weight.expand(count, -1) for n, count in zip(norms, num_heads, strict=True)]
        return _HeadNorm(torch.cat(rows), norms[0].variance_epsilon)

    def __call__(self, x: torch.Tensor) -> None:
        torch.mul(torch.rms_norm(x, x.shape[-1:], None, self.eps), self.weight, out=x)


@dataclass(frozen=True, eq=False)
class _Block:
    """A decoder layer; its halves return what they add to x, in `_Row.added`."""

    norms: list[_Norm]  # of attention and feed-forward
    head_norm: _HeadNorm | None
    qkv: RepeatedGroup
    o: RepeatedGroup
    gate_up: RepeatedGroup
    down: RepeatedGroup
    activation: nn.Module
    scaling: float

    @staticmethod
    def of(layer: Any, row: _Row) -> "_Block":
        """The layer, with its results in the row."""

        def call(names: tuple[str, ...], outputs: list[torch.Tensor]) -> RepeatedGroup:
            return RepeatedGroup([linear_of(linear(layer, name)) for name in names], outputs)

        return _Block(
            [_Norm.of(layer.get_submodule(name)) for name in NORMS],
            _HeadNorm.of(layer, row.num_heads),
            call(QKV, row.qkv),
            call(("self_attn.o_proj",), [row.added]),
            call(GATE_UP, [row.gate, row.up]),
            call(("mlp.down_proj",), [row.added]),
            layer.mlp.act_fn,
            layer.self_attn.scaling,
        )

    def attention(
        self,
        row: _Row,
        turn: _Turn,
        place: torch.Tensor,  # [2, 1, heads, head_dim]
        keys: torch.Tensor,  # [1, heads, tokens, head_dim], `place` among them
        values: torch.Tensor,
    ) -> torch.Tensor:
        self.qkv(self.norms[0](row.x))
        if self.head_norm is not None:
            self.head_norm(row.unturned)
        row.turn(turn)
        place.copy_(row.key_and_value)
        y = scaled_dot_product_attention(
            row.query, keys, values, scale=self.scaling, enable_gqa=True
        )
        self.o(y.reshape(1, -1))
        return row.added

    def feed_forward(self, row: _Row) -> torch.Tensor:
        self.gate_up(self.norms[1](row.x))
        self.down(self.activation(row.gate) * row.up)
        return row.added
