"""Small adapters, and their dense updates in float64 by the formulas alone."""

from dataclasses import replace

import torch

from qlora_kernels.formats.adapter_folder import AdapterFolder, AdapterFolderConfig, LayerFactors

SHAPES = {"blocks.0.q_proj": (12, 10), "blocks.0.up_proj": (20, 10), "blocks.1.q_proj": (12, 10)}


def adapter(seed: int, rank: int = 3, scaling: float = 1.5, names=tuple(SHAPES)) -> AdapterFolder:
    """Random factors in float64: gauges and references then differ by rounding of 1e-15 only."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    layers = {
        name: LayerFactors(normal(rank, SHAPES[name][1]), normal(SHAPES[name][0], rank), scaling)
        for name in names
    }
    return AdapterFolder(layers, AdapterFolderConfig(r=rank, alpha=rank * scaling))


def with_layers(folder: AdapterFolder, change) -> AdapterFolder:
    """The folder with every layer's factors changed."""
    return replace(folder, layers={name: change(f) for name, f in folder.layers.items()})


def turned(folder: AdapterFolder, seed: int = 0) -> AdapterFolder:
    """The same updates in another gauge: A -> R A, B -> B R^-1."""
    generator = torch.Generator().manual_seed(seed)

    def turn(f: LayerFactors) -> LayerFactors:
        mix = torch.randn(f.rank, f.rank, dtype=torch.float64, generator=generator)
        mix += 4.0 * torch.eye(f.rank, dtype=torch.float64)
        return replace(f, a=mix @ f.a, b=f.b @ torch.linalg.inv(mix))

    return with_layers(folder, turn)


def dense(folder: AdapterFolder) -> dict[str, torch.Tensor]:
    """Layer -> s B A, zero where the adapter lacks it."""
    return {
        name: f.scaling * f.b.double() @ f.a.double()
        if (f := folder.layers.get(name))
        else torch.zeros(shape, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def flat(folder: AdapterFolder) -> torch.Tensor:
    """All layers of `dense` as one vector: the task vector."""
    return torch.cat([matrix.flatten() for matrix in dense(folder).values()])


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative to the larger of the two; 0 where both are zero."""
    largest = max(found.norm(), wanted.norm())
    return float((found - wanted).norm() / largest) if largest else 0.0
