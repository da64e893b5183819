"""An amount of memory as people write it: 512MiB, 2GB, or a share of all, 10%."""

import re
from dataclasses import dataclass

from qlora_kernels.errors import InputError

UNITS = {
    **{"%": 0, "B": 1},
    **{"KB": 10**3, "MB": 10**6, "GB": 10**9},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30},
}
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMG]?I?B)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A number of bytes, or a percentage of a whole that is known later."""

    amount: float
    unit: str

    @staticmethod
    def read(name: str, text: str) -> "Budget":
        """From text; raises InputError, which starts with `name`, for anything else."""
        found = AMOUNT.fullmatch(text.strip())
        budget = Budget(float(found[1]), found[2].upper()) if found else None
        if budget is None or budget.unit not in UNITS or budget.amount == 0:
            raise InputError(
                f"{name} should be an amount of memory such as 512MiB, 2GB or 10%, was {text}"
            )
        return budget

    def bytes_of(self, whole: int) -> int:
        """Bytes, where `whole` is what a percentage is a share of."""
        if self.unit == "%":
            return int(whole * self.amount / 100)
        return int(self.amount * UNITS[self.unit])
