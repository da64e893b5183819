"""Searched scales: never worse than absmax, as good as promised, and still bitsandbytes' files."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from bitsandbytes import nn

import qlora_kernels as qk
from formats.peer import absmax_of, bits, dequantize_flat
from formats.weights import KINDS, Kind, random_weight
from qlora_kernels.formats.codebooks import dynamic_map, scale_ratios
from qlora_kernels.testing.cases import generator

FORMATS = ("nf4", "fp4")
# What the search promises of the squared error, over NF4's with double quantization.
PROMISES = {
    ("normal", "nf4"): 0.865,
    ("student", "nf4"): 0.885,
    ("normal", "nf4-tuned"): 0.785,
    ("student", "nf4-tuned"): 0.815,
}


def sample(kind: str, count: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(count, generator=random)
    if kind == "student":
        w /= (torch.randn(8, count, generator=random).square().sum(0) / 8).sqrt()
    return w


def errors(w: torch.Tensor, q: qk.QuantizedTensor) -> torch.Tensor:
    """Squared error per block, in float64."""
    difference = (w.double() - qk.dequantize(q, torch.float32).double()).view(-1)
    missing = -difference.numel() % q.block_size
    return torch.nn.functional.pad(difference, (0, missing)).view(-1, q.block_size).square().sum(1)


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize(("kind", "format"), PROMISES)
def test_the_promise_is_kept(kind: str, format: str, seed: int):
    w = sample(kind, 2**19, seed)
    nf4 = errors(w, qk.quantize(w)).sum()
    for double_quant in (True, False):
        q = qk.quantize(w, format, 64, double_quant, scale_search=True)
        assert errors(w, q).sum() <= PROMISES[kind, format] * nf4
    assert qk.quantize(w, format, scale_search=True).nbytes == qk.quantize(w).nbytes


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("format", FORMATS)
def test_no_block_is_worse_than_with_absmax(backend: str, format: str, kind: Kind):
    random = generator((format, kind.__name__))
    for block_size in (32, 64):
        w = random_weight(kind, block_size, torch.float32, random)
        plain = qk.quantize(w, format, block_size, double_quant=False)
        searched = qk.quantize(w, format, block_size, double_quant=False, scale_search=True)
        rounding = 1e-6 * plain.absmax.double().square() * block_size
        assert (errors(w, searched) <= errors(w, plain) + rounding).all()
        ratios = torch.tensor(scale_ratios(format)) * plain.absmax[:, None]
        among = (searched.absmax[:, None] == ratios).any(dim=1)
        assert (among | (searched.absmax == plain.absmax)).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("format", [*FORMATS, "nf4-tuned"])
def test_backends_agree_bit_for_bit(format: str, kind: Kind):
    random = generator((kind.__name__, format))
    for block_size, double_quant in ((32, True), (64, False), (64, True)):
        w = random_weight(kind, block_size, torch.bfloat16, random)
        if double_quant and not w.float().abs().sum().isfinite():
            continue  # a mean that overflows is refused
        both = []
        for name in ("reference", "cpu"):
            with qk.use_backend(name):
                both.append(qk.quantize(w, format, block_size, double_quant, scale_search=True))
        for name, tensor in both[0].state_dict().items():
            assert torch.equal(tensor.view(-1).view(torch.uint8), bytes_of(both[1], name)), name


def bytes_of(q: qk.QuantizedTensor, name: str) -> torch.Tensor:
    return q.state_dict()[name].view(-1).view(torch.uint8)


def importance_of(columns: int, random: torch.Generator) -> torch.Tensor:
    """A few columns matter much more than the others, and some not at all."""
    importance = torch.rand(columns, generator=random).pow(8)
    importance[::7] = 0
    return importance


@pytest.mark.parametrize("shape", [(40, 96), (31, 50), (3, 2000)])
@pytest.mark.parametrize("format", [*FORMATS, "nf4-tuned"])
def test_backends_agree_on_what_matters_bit_for_bit(format: str, shape: tuple[int, int]):
    random = generator((format, *shape))
    w = torch.randn(*shape, generator=random)
    importance = importance_of(shape[1], random)
    both = []
    for name in ("reference", "cpu"):
        with qk.use_backend(name):
            both.append(qk.quantize(w, format, scale_search=True, importance=importance))
    for name, tensor in both[0].state_dict().items():
        assert torch.equal(tensor.view(-1).view(torch.uint8), bytes_of(both[1], name)), name


@pytest.mark.parametrize("format", [*FORMATS, "nf4-tuned"])
def test_errors_move_to_where_they_matter_less(backend: str, format: str):
    random = generator(format)
    w = torch.randn(200, 96, generator=random)
    importance = importance_of(96, random)

    def weighted(**how: torch.Tensor) -> float:
        q = qk.quantize(w, format, scale_search=True, **how)
        return ((qk.dequantize(q) - w).double().square() * importance).sum().item()

    assert weighted(importance=importance) < 0.7 * weighted()
    same = qk.quantize(w, format, scale_search=True, importance=torch.full((96,), 1e30))
    plain = qk.quantize(w.view(-1), format, scale_search=True)  # no columns, no importance
    assert torch.equal(same.codes, plain.codes)


def test_tuned_errors_are_relative_to_their_column(backend: str):
    w = torch.randn(200, 96, generator=generator("columns"))
    w[:, ::8] /= 16
    w[:, 5] = 0
    importance = 1 / w.square().mean(dim=0).clamp(0.01, 1.0)

    def weighted(q: qk.QuantizedTensor) -> torch.Tensor:
        return ((qk.dequantize(q) - w).square() * importance).sum()

    by_columns, plain = qk.quantize(w, "nf4-tuned"), qk.quantize(w.view(-1), "nf4-tuned")
    assert weighted(by_columns) < 0.7 * weighted(replace(plain, shape=w.shape))
    few = qk.quantize(w[:63], "nf4-tuned")  # too few rows to tell columns apart
    assert torch.equal(few.codes, qk.quantize(w[:63].reshape(-1), "nf4-tuned").codes)


def test_importance_that_makes_no_sense_is_refused(backend: str):
    w = torch.randn(4, 64)
    for importance, message in (
        (torch.ones(4), r"importance should be floats \[64\], was torch.float32 \[4\]"),
        (torch.ones(64, dtype=torch.int64), "should be floats"),
        (torch.zeros(64), "somewhere above 0"),
        (-torch.ones(64), "0 or more"),
        (torch.full((64,), torch.inf), "should be finite"),
    ):
        with pytest.raises(qk.InputError, match=message):
            qk.quantize(w, "nf4-tuned", importance=importance)
    for format in ("nf4", "int8"):
        with pytest.raises(qk.InputError, match="importance should come with scale_search=True"):
            qk.quantize(w, format, importance=torch.ones(64))


def test_codes_are_the_best_for_the_scale_that_is_kept(backend: str):
    w = sample("student", 64 * 600, 5)
    q = qk.quantize(w, "nf4-tuned")
    distances = w.view(-1, 64, 1).double() - q.code_values.double() * q.absmax[:, None, None]
    best = distances.square().amin(dim=2).sum(dim=1)
    assert (errors(w, q) <= best * (1 + 1e-5)).all()


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("format", [*FORMATS, "nf4-tuned"])
def test_degenerate_blocks(backend: str, format: str, double_quant: bool):
    def back(w: torch.Tensor) -> torch.Tensor:
        return qk.dequantize(qk.quantize(w, format, 64, double_quant, scale_search=True))

    assert torch.equal(back(torch.zeros(200)), torch.zeros(200)) or format == "nf4-tuned"
    assert back(torch.zeros(200)).abs().max() <= 1e-38
    mixed = torch.cat([torch.zeros(64), torch.randn(640, generator=generator(format))])
    assert back(mixed)[:64].count_nonzero() == 0
    constant = torch.full((3, 64), -2.5)
    lowest = -dynamic_map(constant.device)[0]  # the map of 8-bit scales has 1, but not -1
    assert torch.allclose(back(constant), constant, rtol=1.0 - lowest.item())
    for count in (0, 1, 2, 63, 65):
        w = torch.linspace(-1, 1, count) if count > 1 else torch.full((count,), -0.3)
        assert back(w).shape == w.shape and torch.allclose(back(w), w, atol=0.2)


def test_what_cannot_be_searched_is_refused(backend: str):
    with pytest.raises(qk.InputError, match="scale_search should be False for int8, was True"):
        qk.quantize(torch.randn(64), "int8", scale_search=True)
    w = torch.randn(4, 64)
    w[2, 7] = float("nan")
    with pytest.raises(qk.InputError, match=r"was nan at \[2, 7\]"):
        qk.quantize(w, "nf4-tuned")


@pytest.mark.parametrize(("format", "nested"), list(product(FORMATS, (False, True))))
def test_bitsandbytes_reads_searched_files(format: str, nested: bool):
    w = torch.randn(96, 161, generator=generator(format))
    q = qk.quantize(w, format, 64, nested, scale_search=True)
    state = q.to_bitsandbytes(prefix="w")
    codes = state.pop("w")
    packed = {k.removeprefix("w."): v for k, v in state.items()}
    parameter = nn.Params4bit.from_prequantized(codes, packed, device="cpu")
    absmax = absmax_of(parameter.quant_state)
    assert torch.equal(bits(absmax), bits(q.absmax))
    truth = dequantize_flat(parameter.data, absmax, format, 64, torch.float32)
    assert torch.equal(bits(qk.dequantize(q)).view(-1), bits(truth)[: w.numel()])


def test_the_tuned_format_is_ours_alone(tmp_path):
    q = qk.quantize(torch.randn(70, 33), "nf4-tuned")
    with pytest.raises(qk.InputError, match="format should be nf4 or fp4, was 'nf4-tuned'"):
        q.to_bitsandbytes()
    q.save(tmp_path / "q.safetensors")
    for other in (
        qk.QuantizedTensor.load(tmp_path / "q.safetensors"),
        qk.QuantizedTensor.from_state_dict(q.state_dict()),
    ):
        assert other.format == "nf4-tuned" and other.double_quant
        assert torch.equal(qk.dequantize(other), qk.dequantize(q))
