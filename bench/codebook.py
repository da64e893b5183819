"""`python -m bench codebook`: finds the codebook of nf4-tuned again.

Alternates two exact steps on blocks of normal and of Student-t values until neither helps:

    scales and codes   what `quantize` does: a signed scale per block by search, double-quantized
    codebook           v[c] = sum of s w over the values with code c / sum of s^2   (least squares)

Both kinds of weights count by their squared error relative to NF4's. Several starts; the best is
printed, scaled so that its largest magnitude is 1.
"""

import argparse
from dataclasses import dataclass

import torch

import qlora_kernels as qk
from qlora_kernels import native
from qlora_kernels.formats.codebooks import NF4, dynamic_map, scale_ratios

HELP = "find the codebook of nf4-tuned again"
BLOCK_SIZE = 64
# How much a percent on each counts: real layers are heavier in the tails than the normal.
WEIGHTS = {"normal": 1.0, "student-t8": 1.0}


def samples(kind: str, count: int, seed: int) -> torch.Tensor:
    """Values [count] of one of WEIGHTS' kinds."""
    random = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, generator=random)
    if kind == "normal":
        return normal
    chi_squared = torch.randn(8, count, generator=random).square().sum(0)
    return normal / (chi_squared / 8).sqrt()


def squared_error(w: torch.Tensor, q: qk.QuantizedTensor) -> float:
    """Sum of (w - dequantize(q))^2, in float64."""
    return (w.double() - qk.dequantize(q, torch.float32).double()).square().sum().item()


@dataclass
class Coded:
    """Values under a codebook: their codes and the scale of each."""

    codes: torch.Tensor  # int64 [count]
    scales: torch.Tensor  # [count]


def encode(w: torch.Tensor, codebook: list[float]) -> Coded:
    """What `quantize` does for nf4-tuned, with another codebook."""
    values = dynamic_map(torch.device("cpu"))
    tables = native.cpu().Tables(codebook, values.tolist(), scale_ratios("nf4-tuned"))
    kernels, blocks = native.cpu(), w.numel() // BLOCK_SIZE
    packed = torch.empty(w.numel() // 2, 1, dtype=torch.uint8)
    scales, nested = torch.empty(blocks), torch.empty(-(-blocks // 256))
    scale_codes = torch.empty(blocks, dtype=torch.uint8)
    kernels.quantize((w, None), BLOCK_SIZE, tables, packed, scales, 1)
    kernels.quantize_scales(scales, 0.0, tables, scale_codes, nested, 1)
    kernels.quantize_nested((w, None), BLOCK_SIZE, tables, packed, (scale_codes, nested, 0.0), 1)
    kept = values[scale_codes.long()] * nested.repeat_interleave(256)[:blocks]
    codes = torch.cat([packed >> 4, packed & 15], dim=1).view(-1).long()
    return Coded(codes, kept.repeat_interleave(BLOCK_SIZE))


def improve(
    weights: dict[str, torch.Tensor], nf4: dict[str, float], codebook: list[float], steps: int
) -> tuple[list[float], dict[str, float]]:
    """(the codebook after so many alternations, its squared error over NF4's per kind)."""
    ratios: dict[str, float] = {}
    for _ in range(steps):
        ordered = torch.tensor(sorted(codebook))
        products, squares = torch.zeros(2, 16, dtype=torch.float64)
        for kind, w in weights.items():
            coded = encode(w, ordered.tolist())
            error = (w - ordered[coded.codes] * coded.scales).double().square().sum().item()
            ratios[kind] = error / nf4[kind]
            share = WEIGHTS[kind] / nf4[kind]
            products += share * torch.bincount(coded.codes, (coded.scales * w).double(), 16)
            squares += share * torch.bincount(coded.codes, coded.scales.double().square(), 16)
        found = products / squares
        codebook = (found / found.abs().max()).tolist()
    return ordered.tolist(), ratios


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--values", type=int, default=2**19, help="of each kind")
    parser.add_argument("--steps", type=int, default=160, help="alternations from each start")
    parser.add_argument("--starts", type=int, default=1, help="NF4, and so many less one jittered")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    weights = {k: samples(k, arguments.values, arguments.seed) for k in WEIGHTS}
    nf4 = {k: squared_error(w, qk.quantize(w)) for k, w in weights.items()}
    random = torch.Generator().manual_seed(arguments.seed)
    best: tuple[float, list[float]] = (float("inf"), [])
    for start in range(arguments.starts):
        jitter = torch.randn(16, generator=random) * 0.03 * (start > 0)
        codebook, ratios = improve(
            weights, nf4, (torch.tensor(NF4) + jitter).tolist(), arguments.steps
        )
        loss = sum(WEIGHTS[k] * ratios[k] for k in WEIGHTS)
        print(f"start {start}: " + ", ".join(f"{k} {r:.5f}" for k, r in ratios.items()), flush=True)
        best = min(best, (loss, codebook))
    print(*(f"    {value:.6f}," for value in best[1]), sep="\n")
    return 0
