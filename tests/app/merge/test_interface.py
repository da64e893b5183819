"""A method that is not built in fits the interface: a function and an entry, in either basis."""

import torch

from app.merge.material import adapter, dense, difference
from qlora.merge import MergeSpec, merge_folders
from qlora.merge.method import Method
from qlora.merge.methods import METHODS


def iso_c(spec, adapters):
    """Iso-C (arXiv 2502.04959): the sum of the updates with all singular values at their mean."""

    def merge(layer):
        u, values, v = torch.linalg.svd(sum(layer.matrices), full_matrices=False)
        rank = int((values > values[0] * 1e-9).sum())
        return values[:rank].mean() * u[:, :rank] @ v[:rank]

    return merge


def test_iso_c_in_the_core_basis_is_iso_c(monkeypatch):
    folders = [adapter(1), adapter(2, rank=2)]
    monkeypatch.setitem(METHODS, "iso-c", Method(iso_c, "Iso-C", "core"))
    found, report = merge_folders(folders, ["a", "b"], MergeSpec("iso-c"))
    for name, merged in dense(found).items():
        total = sum(dense(folder)[name] for folder in folders)
        u, values, v = torch.linalg.svd(total, full_matrices=False)
        wanted = values[:5].mean() * u[:, :5] @ v[:5]
        assert difference(merged, wanted) <= 1e-6
    assert {layer.rank for layer in report.layers} == {5}


def test_a_core_method_gives_the_same_in_the_standard_basis(monkeypatch):
    """As happens where an update has no core."""
    folders = [adapter(1), adapter(2, rank=2)]
    results = []
    for basis in ("core", "standard"):
        monkeypatch.setitem(METHODS, "iso-c", Method(iso_c, "Iso-C", basis))
        results.append(dense(merge_folders(folders, ["a", "b"], MergeSpec("iso-c"))[0]))
    for name, merged in results[0].items():
        assert difference(merged, results[1][name]) <= 1e-6
