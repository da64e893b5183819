"""A kernel and one configuration that the launch rule can choose, compiled without a GPU.

Each room with Triton kernels has `compile_cases()` in its triton_kernel.py; `make kernels-report`
compiles them all for every architecture and reads the machine code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qlora_kernels.formats.codebooks import NESTED_BLOCK_SIZE

ARCHITECTURES = (80, 89, 90, 100)
WARP = 32


def bytes_per_weight(bits: int, block_size: int, nested: bool) -> float:
    """Of a code and its share of the scales: float32 ones, or 8 bits with scales of their own."""
    return bits / 8 + (1 + 4 / NESTED_BLOCK_SIZE if nested else 4) / block_size


NF4_BYTES = bytes_per_weight(4, 64, True)


@dataclass(frozen=True, eq=False)
class CompileCase:
    """One kernel in one configuration.

    signature: argument -> Triton's type ("*bf16", "i32", "fp32", "constexpr"; a tuple's are a
    tuple), in order; constexprs: the values of the constexpr arguments; aligned: the arguments
    (pointers and sizes) that are multiples of 16 when launched, as Triton's own specialization
    finds. decoded_weights: how many weights one program decodes in an iteration of its inner loop,
    or in all if it has no loop; 0 for a kernel that decodes none. moved_bytes: what one program
    must read and write, where its loads are also of tables that the cache holds; 0: what it loads
    and stores.
    """

    op: str
    description: str
    kernel: Any
    signature: Mapping[str, str | tuple[str, ...]]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    fp_fusion: bool = True
    aligned: tuple[str, ...] = field(default=())
    decoded_weights: int = 0
    moved_bytes: int = 0

    @property
    def name(self) -> str:
        """The kernel's function name."""
        return str(self.kernel.__name__)

    @property
    def bytes_per_weight(self) -> float:
        """What each decoded weight takes in memory; 0 where none is decoded."""
        c = self.constexprs
        if not self.decoded_weights:
            return 0.0
        return bytes_per_weight(c["BITS"], c["BLOCK_SIZE"], c["NESTED"])

    def compile(self, architecture: int) -> Any:
        """Triton's compiled kernel for an architecture (90: sm_90); imports triton, needs no GPU.

        `.asm` has "ttgir", "ptx" and "cubin"; `.metadata` has `shared` (bytes) and `num_warps`.
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        places = [
            place
            for i, (name, kind) in enumerate(self.signature.items())
            if name in self.aligned
            for place in ([(i,)] if isinstance(kind, str) else [(i, j) for j in range(len(kind))])
        ]
        source = ASTSource(
            fn=self.kernel,
            signature=dict(self.signature),
            constexprs=dict(self.constexprs),
            attrs={place: [["tt.divisibility", 16]] for place in places},
        )
        options = {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": self.fp_fusion,
        }
        return triton.compile(source, target=GPUTarget("cuda", architecture, WARP), options=options)
