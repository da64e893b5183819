"""The identities of docs/merging.md, for every method that claims them."""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.merge.material import adapter, difference, flat, turned, with_layers
from qlora.merge import MergeSpec, merge_folders
from qlora.merge.methods import METHODS
from qlora_kernels.formats.adapter_folder import LayerFactors

LINEAR = [name for name, method in METHODS.items() if method.basis == "core"]
SAME = 2e-6  # results are float32 factors: a few units in the last place, added over the rank

seeds, ranks = st.integers(0, 1000), st.integers(1, 5)
few = settings(max_examples=10, deadline=None)


def merge(folders, **options) -> torch.Tensor:
    result, _ = merge_folders(folders, list(map(str, range(len(folders)))), MergeSpec(**options))
    return flat(result)


@pytest.mark.parametrize("method", LINEAR)
@given(seed=seeds, rank=ranks)
@few
def test_one_adapter_at_weight_1_is_itself(method, seed, rank):
    folder = adapter(seed, rank)
    result, report = merge_folders([folder], ["it"], MergeSpec(method))
    assert difference(flat(result), flat(folder)) <= SAME
    assert {layer.rank for layer in report.layers} == {rank}


@given(seed=seeds, rank=ranks)
@few
def test_an_adapter_less_itself_is_zero(seed, rank):
    folder = adapter(seed, rank)
    for method in ("task-arithmetic", "ties"):
        for second in (folder, turned(folder)):
            found = merge([folder, second], method=method, weights=(1.0, -1.0))
            if method == "task-arithmetic" or second is folder:
                assert float(found.norm()) <= SAME * float(flat(folder).norm())


@pytest.mark.parametrize("count", [2, 5])
@given(seed=seeds)
@few
def test_copies_average_to_one(count, seed):
    folder = adapter(seed)
    copies = [folder if place % 2 else turned(folder, place) for place in range(count)]
    result, report = merge_folders(copies, list(map(str, range(count))), MergeSpec("average"))
    assert difference(flat(result), flat(folder)) <= SAME
    assert {layer.rank for layer in report.layers} == {3}  # not 3 times the count


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds, rank=ranks)
@few
def test_the_gauge_does_not_matter(method, seed, rank):
    folders = [adapter(seed, rank), adapter(seed + 1), adapter(seed + 2, 2)]
    others = [turned(folder, place) for place, folder in enumerate(folders)]
    how = {"method": method, "weights": (1.0, 0.5, -0.7)}
    assert difference(merge(others, **how), merge(folders, **how)) <= SAME


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
@few
def test_the_order_does_not_matter_to_the_bit(method, seed):
    pairs = [(adapter(seed), 1.0), (adapter(seed + 1, 2), 0.5), (adapter(seed + 2), 0.5)]
    found = [
        merge([f for f, _ in order], method=method, weights=tuple(w for _, w in order))
        for order in permutations(pairs)
    ]
    assert all(torch.equal(other, found[0]) for other in found[1:])


@given(seed=seeds, weight=st.floats(0.1, 3.0))
@few
def test_ties_of_agreeing_signs_at_density_1_is_the_weighted_mean(seed, weight):
    positive = [
        with_layers(adapter(seed + n), lambda f: LayerFactors(f.a.abs(), f.b.abs(), f.scaling))
        for n in (0, 1)
    ]
    how = {"weights": (1.0, weight)}
    found = merge(positive, method="ties", density=1.0, **how)
    assert difference(found, merge(positive, method="average", **how)) <= SAME


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
@few
def test_a_missing_layer_is_a_zero_update(method, seed):
    whole = adapter(seed)
    without = adapter(seed + 1, names=["blocks.0.q_proj"])
    lacking = whole.layers.keys() - without.layers.keys()
    zeros = {
        name: LayerFactors(f.a, torch.zeros_like(f.b), f.scaling)
        for name, f in whole.layers.items()
        if name in lacking
    }
    padded = type(without)({**without.layers, **zeros}, without.config)
    found = merge([whole, without], method=method)
    assert difference(merge([whole, padded], method=method), found) <= SAME


def test_one_adapter_through_ties_is_not_itself():
    """What the documentation warns of: at density 0.2 four fifths of the entries are gone."""
    folder = adapter(0)
    found = merge([folder], method="ties", density=0.2)
    assert difference(found, flat(folder)) > 0.3
    assert difference(merge([folder], method="ties", density=1.0), flat(folder)) <= SAME


def test_cancelling_entries_go_to_the_majority():
    """Two that cancel in one layer only: the signs elected elsewhere decide (the paper's code)."""
    first = with_layers(adapter(0), lambda f: LayerFactors(f.a.abs(), f.b.abs(), f.scaling))
    name = "blocks.0.q_proj"
    flipped = LayerFactors(first.layers[name].a, -first.layers[name].b, first.layers[name].scaling)
    second = type(first)({**first.layers, name: flipped}, first.config)
    whole = merge([first, second], method="ties", density=1.0)
    assert difference(whole, flat(first)) <= SAME
    each = merge([first, second], method="ties", density=1.0, trim_scope="tensor")
    assert float(each[: 12 * 10].norm()) == 0.0


def test_the_table_of_the_documentation_names_the_methods():
    page = (Path(__file__).parents[3] / "docs/merging.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(METHODS)
    assert f"| | {' | '.join(f'`{name}`' for name in METHODS)} |" in page
