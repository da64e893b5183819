"""The search for scales by Triton kernels: the steps of scale_search.Search, with the same bits."""

from collections.abc import Iterator
from functools import cache

import torch

from qlora_kernels.formats import QuantSpec
from qlora_kernels.formats.codebooks import NESTED_BLOCK_SIZE, codebook, dynamic_map
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import TRITON_TYPES, launch
from qlora_kernels.ops.quantize.rule import TINY

_VALUES = 1024  # that a program divides by their absmax
_ROWS = 128  # blocks that a program searches the scales of
_STEPS = (0, -1, 1)  # from an 8-bit scale to what is tried in its place
Encoding = tuple[torch.Tensor, int]  # thresholds, and codes in order of their values


class ScaleSearch:
    """The blocks of a weight, and which scale is the best of each; encoding: of its format."""

    def __init__(
        self,
        w: torch.Tensor,
        absmax: torch.Tensor,
        spec: QuantSpec,
        encoding: Encoding,
        importance: torch.Tensor | None,
    ) -> None:
        """w: contiguous; absmax: float32 [blocks]; importance: by column of w, or None."""
        from qlora_kernels.ops.quantize.search_device import scale_kernel

        self.absmax, self.spec, self.encoding, self.importance = absmax, spec, encoding, importance
        self.scaled = torch.empty(w.numel(), dtype=torch.float32, device=w.device)
        launch(
            scale_kernel,
            (-(-w.numel() // _VALUES),),
            w.device,
            *(w, absmax, self.scaled, w.numel()),
            BLOCK_SIZE=spec.block_size,
            VALUES=_VALUES,
            enable_fp_fusion=False,  # bits equal the reference's
        )

    def best_scales(self, codes: torch.Tensor) -> torch.Tensor:
        """The scales, float32 [blocks]; codes become those for them."""
        ratios = ratios_on(codes.device, self.spec)
        return ratios[self._search(ratios, codes)] * self.absmax

    def best_nested(
        self, codes: torch.Tensor, parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Each 8-bit scale, or one of its two neighbours where that is better; codes as above.

        parts: what double quantization made of the searched scales.
        """
        scales, nested_absmax, offset = parts
        values = dynamic_map(codes.device)
        steps = torch.tensor(_STEPS, device=codes.device)[:, None]
        candidates = scales.long() + steps  # [candidates, blocks]
        exist = (candidates >= 0) & (candidates < len(values))
        group = nested_absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: scales.numel()]
        found = values[candidates.clamp(0, len(values) - 1)] * group + offset
        ratios = torch.where(exist, found / self.absmax.clamp(min=TINY), float("nan"))
        choice = self._search(ratios, codes)
        return candidates.gather(0, choice[None])[0].to(torch.uint8)

    def _search(self, ratios: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Which of ratios [candidates] or [candidates, blocks] is the best of each block."""
        from qlora_kernels.ops.quantize.search_device import search_kernel

        thresholds, order = self.encoding
        importance = self.scaled if self.importance is None else self.importance.contiguous()
        choice = torch.empty_like(self.absmax, dtype=torch.int64)
        inverses = torch.where(ratios == 0, 0.0, 1.0 / ratios)  # of zero every value is zero
        launch(
            search_kernel,
            (-(-self.absmax.numel() // _ROWS),),
            codes.device,
            *(self.scaled, importance, thresholds, _sorted(self.spec.format, codes.device), order),
            *(self.absmax, ratios, inverses, choice, codes, self.scaled.numel()),
            *(importance.numel(), len(ratios), self.absmax.numel()),
            SHARED=ratios.dim() == 1,
            WEIGHTED=self.importance is not None,
            BLOCK_SIZE=self.spec.block_size,
            ROWS=_ROWS,
            enable_fp_fusion=False,
        )
        return choice


@cache
def ratios_on(device: torch.device, spec: QuantSpec) -> torch.Tensor:
    """The multiples of absmax that are tried: itself before all others."""
    return torch.tensor((1.0, *spec.ratios), device=device)


@cache
def _sorted(format_name: str, device: torch.device) -> torch.Tensor:
    return codebook(format_name, device).sort().values


def compile_cases() -> Iterator[CompileCase]:
    """The division in every dtype; the search of scales, of nested ones, and by importance."""
    from qlora_kernels.ops.quantize.search_device import scale_kernel, search_kernel

    constants = {"BLOCK_SIZE": 64, "VALUES": _VALUES}
    for name in TRITON_TYPES.values():
        signature = {"w": f"*{name}", "absmax": "*fp32", "scaled": "*fp32", "count": "i32"}
        yield _case(name, scale_kernel, signature, constants)
    floats = dict.fromkeys(("scaled", "importance", "thresholds", "values"), "*fp32")
    floats |= {"order": "i64", "absmax": "*fp32", "ratios": "*fp32", "inverses": "*fp32"}
    sizes = dict.fromkeys(("count", "columns", "num_candidates", "num_blocks"), "i32")
    signature = floats | {"choice": "*i64", "codes": "*u8"} | sizes
    for shared in (True, False):
        for weighted in (False, True):
            flags = {"SHARED": shared, "WEIGHTED": weighted, "BLOCK_SIZE": 64, "ROWS": _ROWS}
            said = "search of scales" if shared else "search of nested scales"
            said += " by importance" if weighted else ""
            yield _case(said, search_kernel, signature, flags)


def _case(
    said: str, kernel: object, signature: dict[str, str], constants: dict[str, int]
) -> CompileCase:
    return CompileCase(
        "quantize",
        said,
        kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        constants,
        fp_fusion=False,
        aligned=tuple(name for name in signature if name not in ("order", "num_candidates")),
    )
