"""Weights that a quantizer can get wrong: kinds of values, and shapes that end anywhere."""

from collections.abc import Callable

import torch

from qlora_kernels.formats.codebooks import codebook, encoding

CPU = torch.device("cpu")
Kind = Callable[[int, int, torch.Generator], torch.Tensor]  # (count, block_size, generator) -> fp32


def normal(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, generator=generator)


def signs(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(2, (count,), generator=generator) * 2.0 - 1.0


def heavy_tailed(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, generator=generator) ** 5


def near_the_floor(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    """Around 1e-38, where bitsandbytes clamps a block's absmax and float32 turns denormal."""
    exponents = torch.randint(-45, -35, (1,), generator=generator).item()
    return torch.randn(count, generator=generator) * 10.0**exponents


def huge(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * torch.finfo(torch.float32).max


def zero(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    return torch.zeros(count) * signs(count, generator)


def zero_blocks(count: int, block_size: int, generator: torch.Generator) -> torch.Tensor:
    """Every other block is zero; the last one always, ragged or not."""
    weight = torch.randn(count, generator=generator)
    block = torch.arange(count) // block_size
    weight[(block[-1] - block) % 2 == 0] = 0.0
    return weight


def constant(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn((), generator=generator).expand(count)


def powers_of_two(count: int, _: int, generator: torch.Generator) -> torch.Tensor:
    exponents = torch.randint(-140, 120, (count,), generator=generator)
    return torch.ldexp(signs(count, generator), exponents)


def _around(
    points: torch.Tensor, count: int, block_size: int, generator: torch.Generator
) -> torch.Tensor:
    """The points and their neighbours in float32, in blocks whose absmax is a power of two."""
    points = torch.cat([points, points.nextafter(CPU_INF), points.nextafter(-CPU_INF)])
    weight = points[torch.randint(len(points), (count,), generator=generator)]
    weight[::block_size] = 1.0
    scale = torch.randint(-20, 20, (count // block_size + 1,), generator=generator)
    return torch.ldexp(weight.clamp(-1, 1), scale.repeat_interleave(block_size)[:count])


CPU_INF = torch.tensor(float("inf"))


def nf4_ties(count: int, block_size: int, generator: torch.Generator) -> torch.Tensor:
    return _around(encoding("nf4", CPU)[0], count, block_size, generator)


def fp4_ties(count: int, block_size: int, generator: torch.Generator) -> torch.Tensor:
    return _around(encoding("fp4", CPU)[0], count, block_size, generator)


def codebook_values(count: int, block_size: int, generator: torch.Generator) -> torch.Tensor:
    values = torch.cat([codebook("nf4", CPU), codebook("fp4", CPU)])
    return _around(values, count, block_size, generator)


KINDS: tuple[Kind, ...] = (
    normal,
    heavy_tailed,
    near_the_floor,
    huge,
    zero,
    zero_blocks,
    constant,
    powers_of_two,
    nf4_ties,
    fp4_ties,
    codebook_values,
)


def random_shape(block_size: int, generator: torch.Generator) -> tuple[int, ...]:
    """One to three dimensions of up to about four blocks, most of them ragged, many of them odd."""

    def below(limit: int) -> int:
        return int(torch.randint(1, limit + 1, (), generator=generator))

    total = 4 * block_size
    match below(5):
        case 1:
            return (below(total),)
        case 2:
            return (below(4) * block_size,)
        case 3:
            return (below(8), below(total // 8))
        case 4:
            return (below(total // 8), below(8))
        case _:
            return (below(4), below(4), below(total // 16))


def random_weight(
    kind: Kind, block_size: int, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """A finite weight of one kind in one dtype."""
    shape = random_shape(block_size, generator)
    limit = torch.finfo(dtype).max
    count = torch.Size(shape).numel()
    return kind(count, block_size, generator).clamp(-limit, limit).to(dtype).reshape(shape)
