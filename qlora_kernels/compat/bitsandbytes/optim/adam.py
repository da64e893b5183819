"""Adam by bitsandbytes' names: its decay is decoupled too, and only the default differs."""

from typing import Any

from torch.optim.optimizer import ParamsT

from qlora_kernels.compat.bitsandbytes.optim.adamw import AdamW


class Adam(AdamW):
    """`AdamW` with weight_decay=0 by default."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] | str = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        optim_bits: int = 32,
        args: Any = None,
        min_8bit_size: int = 4096,
        is_paged: bool = False,
        **older: Any,
    ) -> None:
        """As AdamW."""
        rest = (amsgrad, optim_bits, args, min_8bit_size, is_paged)
        super().__init__(params, lr, betas, eps, weight_decay, *rest, **older)


class Adam8bit(Adam):
    """`Adam` with 8-bit states."""

    fixed_bits = 8


class Adam32bit(Adam):
    """`Adam` with 32-bit states."""

    fixed_bits = 32


class PagedAdam(Adam):
    """`Adam` with states in pages."""

    always_paged = True


class PagedAdam8bit(Adam8bit):
    """`Adam` with 8-bit states in pages."""

    always_paged = True


class PagedAdam32bit(Adam32bit):
    """`Adam` with 32-bit states in pages."""

    always_paged = True
