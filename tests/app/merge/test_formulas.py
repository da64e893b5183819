"""Every method against the published formulas on dense float64 vectors."""

import pytest
import torch

from app.merge import formulas
from app.merge.material import SHAPES, adapter, dense, difference, flat, with_layers
from qlora.merge import MergeSpec, merge_folders
from qlora.merge.methods.dare import mask_seed
from qlora.merge.order import canonical_order
from qlora_kernels import dropout_mask
from qlora_kernels.formats.adapter_folder import LayerFactors

ADAPTERS = [adapter(1), adapter(2, rank=2), adapter(3, scaling=0.5, names=list(SHAPES)[1:])]
WEIGHTS = (1.5, 0.8, 0.4)
AGREES = 1e-5  # the bound; results are float32 factors


def merged(**options) -> torch.Tensor:
    names = [str(place) for place in range(len(ADAPTERS))]
    result, _ = merge_folders(ADAPTERS, names, MergeSpec(**options))
    return flat(result)


def rows() -> torch.Tensor:
    return torch.stack([flat(folder) for folder in ADAPTERS])


def weights(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def masks(density: float, chosen: tuple[float, ...], seed: int = 0) -> torch.Tensor:
    """The entries that DARE keeps, [adapters, n], in the order of ADAPTERS."""
    order = canonical_order([folder.layers for folder in ADAPTERS], chosen)
    kept = [
        torch.cat(
            [
                dropout_mask(mask_seed(seed, place, name), shape, 1 - density).flatten() > 0
                for name, shape in SHAPES.items()
            ]
        )
        for place in range(len(order))
    ]
    return torch.stack([kept[order.index(place)] for place in range(len(order))]).double()


@pytest.mark.parametrize("chosen", [WEIGHTS, (1.0, 1.0, 1.0), (1.0, -0.5, 2.0)])
def test_linear_methods(chosen):
    found = merged(method="average", weights=chosen)
    assert difference(found, formulas.linear(rows(), weights(*chosen))) <= AGREES
    found = merged(method="task-arithmetic", weights=chosen)
    assert difference(found, formulas.task_arithmetic(rows(), weights(*chosen))) <= AGREES


def test_lambda_multiplies():
    found = merged(method="task-arithmetic", lambda_=0.3)
    assert difference(found, 0.3 * rows().sum(0)) <= AGREES


@pytest.mark.parametrize("density", [0.05, 0.2, 0.61, 1.0])
@pytest.mark.parametrize("chosen", [WEIGHTS, (1.0, 1.0, 1.0)])
def test_ties_per_tensor_is_mergekits(density, chosen):
    found = merged(method="ties", density=density, weights=chosen, trim_scope="tensor")
    layers = [
        formulas.ties_of_mergekit(
            torch.stack([dense(folder)[name].flatten() for folder in ADAPTERS]),
            weights(*chosen),
            density,
        )
        for name in SHAPES
    ]
    assert difference(found, torch.cat(layers)) <= AGREES


@pytest.mark.parametrize("density", [0.05, 0.2, 0.61, 1.0])
def test_ties_per_model_is_the_papers(density):
    found = merged(method="ties", density=density)
    assert difference(found, formulas.ties_of_the_paper(rows(), density)) <= AGREES


def test_the_scope_of_the_trimming_matters():
    whole, each = (merged(method="ties", trim_scope=scope) for scope in ("model", "tensor"))
    assert difference(whole, each) > 0.01


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("chosen", [WEIGHTS, (1.0, 1.0, 1.0)])
def test_dare_is_mergekits_with_the_papers_rescaling(density, chosen):
    kept = masks(density, chosen)
    assert abs(float(kept.mean()) - density) < 0.08
    found = merged(method="dare", density=density, weights=chosen)
    wanted = formulas.dare_linear(rows(), weights(*chosen), kept, density)
    assert difference(found, wanted) <= AGREES
    found = merged(method="dare-ties", density=density, weights=chosen)
    wanted = formulas.dare_ties(rows(), weights(*chosen), kept, density)
    assert difference(found, wanted) <= AGREES


def test_the_expectation_of_dare_is_the_sum():
    """The mean over seeds, in standard errors of a mean: none of the bounds is a tolerance."""
    density, seeds = 0.5, 200
    draws = torch.stack(
        [merged(method="dare", density=density, seed=seed) for seed in range(seeds)]
    )
    variance = (rows().square() * (1 / density - 1)).sum(0)  # of one draw, per entry
    z = (draws.mean(0) - rows().sum(0)) / (variance / seeds).sqrt()
    assert abs(float(z.square().mean()) - 1.0) < 0.35  # chi-square with some 400 correlated terms
    assert float(z.abs().max()) < 5.0


def test_masks_of_adapters_and_layers_are_independent():
    kept = masks(0.5, WEIGHTS)
    together = (kept[0] * kept[1]).mean()
    assert abs(float(together) - 0.25) < 0.08


@pytest.mark.parametrize("method", ["average", "ties"])
def test_float32_factors_as_they_come_from_files(method):
    """The formula in float64 on the same factors; the package works on them in float32."""
    narrow = [
        with_layers(folder, lambda f: LayerFactors(f.a.float(), f.b.float(), f.scaling))
        for folder in ADAPTERS
    ]
    found, _ = merge_folders(narrow, ["a", "b", "c"], MergeSpec(method))
    vectors = torch.stack([flat(folder) for folder in narrow])
    wanted = vectors.mean(0) if method == "average" else formulas.ties_of_the_paper(vectors, 0.2)
    assert difference(flat(found), wanted) <= AGREES
