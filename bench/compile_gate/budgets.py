"""What kernels were promised to cost at most, or to reach: unlike limits, no update moves these."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.compile_gate.compiled import Row


@dataclass(frozen=True)
class Budget:
    """Of the rows whose key matches: a field is at most `most`, or at least `least`."""

    rows: str
    field: str
    most: float | None = None
    least: float | None = None

    def broken(self, row: Row) -> str | None:
        value = getattr(row, self.field)
        if not re.match(self.rows, row.key) or value is None:
            return None
        if self.most is not None and value > self.most:
            return f"{row.key}: {self.field} has a budget of {self.most}, was {value}"
        if self.least is not None and value < self.least:
            return f"{row.key}: {self.field} was promised to be {self.least}, was {value}"
        return None


_CODEC = r"dequantize dequantize_kernel \[cuda, \w+, {}, \w+, \d+\] sm_90"
_NIBBLES, _BYTES = _CODEC.format("false"), _CODEC.format("true")
_ENCODER = r"quantize quantize_kernel \[cuda, \w+, cuda::{}Codes\] sm_90"
_ROWS = r"qlora_linear qlora_linear_kernel \[cuda, \w+, cuda::{}Walk<{}> ?\] sm_90"
_FEW_16 = _ROWS.format("Tensor", r"\w+, cuda::{}, \d")
_FEW_32 = _ROWS.format("Float", r"cuda::Float\w+, {}")
_STEP = r"adamw adamw_kernel \[cuda, .*\] sm_90"
_NORM = r"dora_column_norm dora_column_norm_kernel \[cuda, \w+, \(cuda::Start\)0, rank 16\] sm_90"

BUDGETS = (
    # Fifteen instructions for eight weights, their scale included, keep memory busy.
    Budget(_FEW_16.format("Nibbles"), "sass_per_weight", most=15 / 8),
    Budget(_FEW_16.format(r"\w+"), "bound_share", least=0.9),
    # float32 x: memory's pace for one row; of more, half of what multiply-adds or memory allow.
    Budget(_FEW_32.format("1"), "bound_share", least=0.9),
    Budget(_FEW_32.format(r"\d+"), "bound_share", least=0.5),
    # Two roots or divisions and two codes an element, at ten bytes or more.
    Budget(_STEP, "bound_share", least=0.85),
    # Of float32's multiply-adds: decoding and squares take as much as sixteen ranks.
    Budget(_NORM, "bound_share", least=0.44),
    # Bits as bitsandbytes makes them cost two products in float32 and, for 16-bit values, one
    # conversion a pair of codes: 1.5 instructions a weight; a quarter of a product of bytes finds
    # the pair (csrc/cuda/dequantize.inl), and the rest goes to scales, a shuffle, the loop.
    Budget(_NIBBLES, "sass_beyond_memory", most=2.0),
    # A code of eight bits is a value of its own, which takes a subtraction besides.
    Budget(_BYTES, "sass_beyond_memory", most=4.0),
    Budget(_CODEC.format(r"\w+"), "bound_share", least=0.9),
    # Codebooks that no even grid tells apart (fp4) are searched by halves, which costs more.
    Budget(_ENCODER.format("(Cell|Int8)"), "bound_share", least=0.75),
    Budget(_ENCODER.format("Any"), "bound_share", least=0.65),
    # Few rows of x: decoding leaves memory's bandwidth to be the limit (issue slots and pipes).
    Budget(
        r"qlora_linear forward_(group_)?kernel \[.* skinny=1\b.*\] sm_90", "bound_share", least=0.85
    ),
)


def broken(rows: Iterable[Row]) -> Iterator[str]:
    """One line for each budget that a row exceeds."""
    for row in rows:
        for budget in BUDGETS:
            line = budget.broken(row)
            if line is not None:
                yield line
