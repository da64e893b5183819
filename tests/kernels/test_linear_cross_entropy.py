"""The loss head by the error rule, over several chunks of rows and blocks of the vocabulary."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from ops.test_linear_cross_entropy import CASES, Case, Tensors, ours, outputs, plain, tensors
from qlora_kernels.ops.linear_cross_entropy import op, triton_kernel
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE
from qlora_kernels.testing.cases import FLOAT_DTYPES
from qlora_kernels.testing.error_rule import ErrorRule

SEEDS = 3  # the interpreter takes seconds for what a GPU does at once


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernel, "_BLOCK", 256)


def placed(given: Tensors, device: torch.device) -> Tensors:
    hidden, head, labels = (t.to(device) for t in given)
    return hidden, head, labels


def in_float64(given: Tensors) -> Tensors:
    return given[0].double(), given[1].double(), given[2]


@pytest.mark.parametrize("rows_per_chunk", [19])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_gradients(
    device: torch.device, dtype: torch.dtype, rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch
):
    rule = ErrorRule(dtype)
    for case in CASES:
        row_bytes = case.v * dtype.itemsize
        monkeypatch.setattr(triton_kernel, "_CHUNK_BYTES", rows_per_chunk * row_bytes)
        given = tensors(case, dtype)
        found = outputs(ours, case, placed(given, device))
        yardstick, truth = (outputs(plain, case, t) for t in (given, in_float64(given)))
        for name in ("dhidden", "dhead"):
            assert found[name].dtype == dtype
            rule.add(str(case), name, found[name].cpu(), yardstick[name], truth[name])
    rule.check()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_loss(device: torch.device, dtype: torch.dtype):
    """One number a case: only many of them tell a bias from chance."""
    rule = ErrorRule(dtype)
    for case in (replace(c, seed=seed) for seed in range(SEEDS) for c in CASES):
        given = tensors(case, dtype)
        result = ours(case, *placed(given, device))
        yardstick, truth = (plain(case, *t) for t in (given, in_float64(given)))
        assert result.dtype == torch.float32
        rule.add(str(case), "loss", result.cpu(), yardstick, truth)
    rule.check()


def test_all_rows_at_once_where_asking_for_the_labelled_ones_is_forbidden(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """As in a captured graph: rows without label come out as zeros, from the kernel itself."""
    given = placed(tensors(CASES[2], torch.float32), device)
    expected = outputs(ours, CASES[2], given)
    for module in (op, triton_kernel):
        monkeypatch.setattr(module, "capturing", lambda: True)
    found = outputs(ours, CASES[2], given)
    torch.testing.assert_close(found, expected)
    assert not found["dhidden"][given[2] == IGNORE].any()


@pytest.mark.parametrize("rows", [0, 4])
def test_without_a_label_the_loss_and_its_gradients_are_zero(device: torch.device, rows: int):
    case = Case(rows, 8, 11)
    hidden, head, labels = placed(tensors(case, torch.float32), device)
    results = outputs(ours, case, (hidden, head, torch.full_like(labels, IGNORE)))
    assert not any(tensor.any() for tensor in results.values())


def test_the_same_bits_every_time(device: torch.device):
    given = placed(tensors(CASES[2], torch.bfloat16), device)
    first, second = outputs(ours, CASES[2], given), outputs(ours, CASES[2], given)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_chunks_are_few_even_and_complete(monkeypatch: pytest.MonkeyPatch):
    head = torch.zeros(10, 4)
    monkeypatch.setattr(triton_kernel, "_CHUNK_BYTES", 5 * head[:, 0].nbytes)
    for num_rows, sizes in ((0, []), (5, [5]), (6, [3, 3]), (16, [4, 4, 4, 4]), (11, [4, 4, 3])):
        parts = list(triton_kernel._chunks(num_rows, head))
        assert [len(range(num_rows)[part]) for part in parts] == sizes


def test_a_label_outside_the_vocabulary_is_refused(device: torch.device):
    hidden, head, labels = placed(tensors(CASES[0], torch.float32), device)
    with pytest.raises(qk.InputError, match="below the vocabulary's 11 or -100, was 11"):
        qk.linear_cross_entropy(hidden, head, labels * 0 + 11)
