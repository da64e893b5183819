"""bitsandbytes.optim: Adam and AdamW, over qk.optim.AdamW."""

from qlora_kernels.compat.bitsandbytes.absent import absent
from qlora_kernels.compat.bitsandbytes.optim.adam import (
    Adam,
    Adam8bit,
    Adam32bit,
    PagedAdam,
    PagedAdam8bit,
    PagedAdam32bit,
)
from qlora_kernels.compat.bitsandbytes.optim.adamw import (
    AdamW,
    AdamW8bit,
    AdamW32bit,
    PagedAdamW,
    PagedAdamW8bit,
    PagedAdamW32bit,
)
from qlora_kernels.compat.bitsandbytes.optim.optimizer import GlobalOptimManager

__all__ = [
    "Adam",
    "Adam8bit",
    "Adam32bit",
    "AdamW",
    "AdamW8bit",
    "AdamW32bit",
    "GlobalOptimManager",
    "PagedAdam",
    "PagedAdam8bit",
    "PagedAdam32bit",
    "PagedAdamW",
    "PagedAdamW8bit",
    "PagedAdamW32bit",
]

for _family in ("Adagrad", "AdEMAMix", "LAMB", "LARS", "Lion", "RMSprop", "SGD"):
    for _bits in ("", "8bit", "32bit"):
        for _paged in ("", "Paged") if _family in ("AdEMAMix", "Lion") else ("",):
            _name = f"{_paged}{_family}{_bits}"
            globals()[_name] = absent(_name, "the optimizers here are Adam and AdamW")
