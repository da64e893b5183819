"""Philox4x32-10 in plain torch: 32-bit words in int64, whose product keeps every bit."""

import torch

BACKEND = "reference"

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def refuses(seed: torch.Tensor, out: torch.Tensor, p: float) -> str | None:
    """Runs everything."""
    return None


def dropout_mask(seed: torch.Tensor, out: torch.Tensor, p: float) -> None:
    """`out[i] = (word(i) >= floor(p 2^32)) / (1 - p)`."""
    index = torch.arange(out.numel(), device=out.device)
    zero = torch.zeros_like(index)
    words = philox((index & _WORD, index >> 32, zero, zero), seed.to(out.device))
    kept = words[0] >= int(p * 2**32)
    scale = 1.0 / (1.0 - torch.tensor(p, dtype=torch.float32, device=out.device))
    out.copy_(torch.where(kept, scale, 0.0).view(out.shape))


def philox(counter: tuple[torch.Tensor, ...], seed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The four output words of Philox4x32-10 (Salmon et al., SC 2011) for a 64-bit seed."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3
