"""The optimizer on every instruction set: the bits of the reference, on any number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch

import qlora_kernels as qk
from native.conftest import ISAS_AND_EMULATED, use
from native.guarded import Guarded, guarded
from qlora_kernels import native
from qlora_kernels.formats.blockwise8 import encode, num_blocks, thresholds
from qlora_kernels.formats.codebooks import dynamic_map
from qlora_kernels.ops.adamw import Gate, Hyperparameters, Segment, adamw_step, gradient_gate

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (0, 1, 7, 255, 256, 257, 1000, 4096)
HYPER = (
    Hyperparameters(1e-3, 0.9, 0.999, 1e-8, 0.01),
    Hyperparameters(0.1, 0.3, 0.5, 1e-3, 0.0),  # lerp from the other end
)


def segment(size: int, dtype: torch.dtype, bits: int, master: bool, memory: Guarded) -> Segment:
    """States as steps leave them; each lies one element off its alignment."""
    p, m, v = torch.randn(3, size)
    p, states = p.to(dtype), {"exp_avg": m, "exp_avg_sq": v.square()}
    if bits == 8:
        for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            states[name], states[f"{name}_absmax"] = encode(states[name], signed)
    if master:
        states["master"] = p.float() + 1e-4 * torch.randn(size)
    states["parameter"] = p
    for name, values in states.items():
        states[name] = memory.empty(values.shape, values.dtype, offset=1).copy_(values)
    return Segment(**states, step=torch.tensor(3.0))


def copied(of: Segment) -> Segment:
    tensors = {f.name: getattr(of, f.name) for f in fields(of)}
    return Segment(**{name: None if t is None else t.clone() for name, t in tensors.items()})


def test_the_bits_of_the_reference(isa: str):
    scale = Gate(torch.tensor(1.0), torch.tensor(0.37), torch.tensor(0.0))
    with guarded() as memory:
        segments, gradients, hyper = [], [], []
        for dtype in DTYPES:
            for bits in (32, 8):
                for master in (False, True) if dtype != torch.float32 else (False,):
                    for i, size in enumerate(SIZES):
                        segments.append(segment(size, dtype, bits, master, memory))
                        gradients.append((torch.randn(size) * 1e-2).to(DTYPES[i % 3]))
                        hyper.append(HYPER[(i + bits) % 2])
        expected = [copied(s) for s in segments]
        adamw_step(segments, gradients, hyper, scale)
        with qk.use_backend("reference"):
            adamw_step(expected, gradients, hyper, scale)
    for ours, theirs in zip(segments, expected, strict=True):
        for field in fields(ours):
            tensor = getattr(ours, field.name)
            if tensor is not None:
                assert torch.equal(tensor, getattr(theirs, field.name)), (field.name, ours)


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.999, 1 - 2**-25])
@pytest.mark.parametrize("steps", [1, 7, 3000])
def test_the_root_is_divided_as_the_reference_does(isa: str, beta2: float, steps: int):
    """Where nothing but the denominator counts: of second moments of all sizes, and of each of the
    digits of a root, those next to a power of two among them."""
    exponents = 10 ** (80 * torch.rand(20000, dtype=torch.double) - 44)
    ends = torch.tensor([0.0, 1e-45, 2.0**-126, 1.0, 3.4e38, torch.inf])
    around = (torch.tensor([1.0, 4.0]).view(torch.int32)[:, None] + torch.arange(-500, 500)).int()
    v = torch.cat([exponents.float(), ends, around.view(-1).view(torch.float32)])
    p, m, g = torch.zeros(len(v)), torch.randn(len(v)), torch.zeros(len(v))
    ours = Segment(p, m, v, torch.tensor(float(steps)))
    theirs = copied(ours)
    hyper = Hyperparameters(1e-3, 0.9, beta2, 0.0, 0.0)
    adamw_step([ours], [g], [hyper], Gate.open(CPU))
    with qk.use_backend("reference"):
        adamw_step([theirs], [g], [hyper], Gate.open(CPU))
    assert torch.equal(ours.exp_avg_sq.view(torch.int32), theirs.exp_avg_sq.view(torch.int32))
    assert torch.equal(ours.parameter.view(torch.int32), theirs.parameter.view(torch.int32))


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_the_nearest(isa: str, signed: bool):
    """At every threshold and some floats on either side, ties among them; zeros; beyond 1."""
    middles = thresholds(CPU, signed).float()
    found = [middles, torch.tensor([0.0, -0.0, 1.0, 1e-30, 2**-23])]
    for direction in (-2.0, 2.0):
        near = middles
        for _ in range(3):
            near = torch.nextafter(near, torch.tensor(direction))
            found.append(near)
    found.append(torch.rand(20000) ** 4)
    scaled = torch.cat([*found, *([-x for x in found] if signed else [])])
    if not signed:
        scaled = scaled.abs()
    wanted = torch.bucketize(scaled.double(), thresholds(CPU, signed))
    codes = [native.state_maps().encode(signed, x) for x in scaled.tolist()]
    assert codes == wanted.tolist()


@pytest.mark.parametrize("signed", [True, False])
def test_a_step_stores_the_nearest(isa: str, signed: bool):
    """Blocks whose moment is a given list of values under a largest of 1: at every threshold and
    the floats around it, where vectors hand over to a search; ties among them, and everything
    between. Without signs the values are squares, since a second moment is."""
    middles = thresholds(CPU, True).float() if signed else thresholds(CPU, False).float().sqrt()
    steps = torch.arange(-12, 13)[:, None] * 2 ** torch.arange(0, 12, 3)[:, None, None]
    values = (middles.view(torch.int32) + steps).int().view(-1).view(torch.float32)
    between = torch.rand(20000) * 10 ** (-8 * torch.rand(20000))
    tiny = torch.tensor([0.0, -0.0, 1e-30, 1e-38, 1.5e-45, 2**-23, 1e-7, 1.0])
    values = torch.cat([values[values.abs() <= 1], between, tiny])
    values = torch.cat([values, -values])
    values = torch.nn.functional.pad(values, (0, -len(values) % 255)).view(-1, 255)
    values = torch.cat([values, torch.ones(len(values), 1)], dim=1).view(-1)
    size = len(values)
    # With betas of 0 the moments become the gradient and its square.
    codes, absmax = torch.zeros(2, size, dtype=torch.uint8), torch.zeros(2, num_blocks(size))
    given = Segment(torch.zeros(size), codes[0], codes[1], torch.tensor(1.0), absmax[0], absmax[1])
    hyper = Hyperparameters(0.0, 0.0, 0.0, 1.0, 0.0)
    adamw_step([given], [values], [hyper], Gate.open(CPU))
    expected, largest = encode(values if signed else values.square(), signed)
    assert torch.equal(codes[0 if signed else 1], expected)
    assert torch.equal(absmax[0 if signed else 1], largest)


@pytest.mark.parametrize("signed", [True, False])
def test_every_code_is_decoded(isa: str, signed: bool):
    """To its entry of the map times absmax: as a parameter that is the first moment, or as one over
    the root of the second. Blocks of every length, short ones ending where their memory does."""
    found, expected = [], []
    with guarded() as memory:
        for size in (*range(1, 20), 63, 64, 65, 128, 200, 255, 256, 300, 1024):
            codes = memory.empty((size,), torch.uint8, offset=1)
            codes.copy_(torch.arange(size) * 37 % 256)
            other = torch.full((size,), 255, dtype=torch.uint8)
            absmax = torch.linspace(0.3, 0.7, 2 * num_blocks(size)).view(2, -1)
            m, v = (codes, other) if signed else (other, codes)
            p = torch.zeros(size)
            given = Segment(p, m, v, torch.tensor(1.0), absmax[0].clone(), absmax[1].clone())
            theirs = copied(given)
            hyper = Hyperparameters(1e-3, 0.9, 0.999, 1e-8, 0.0)
            adamw_step([given], [torch.zeros(size)], [hyper], Gate.open(CPU))
            with qk.use_backend("reference"):
                adamw_step([theirs], [torch.zeros(size)], [hyper], Gate.open(CPU))
            found.append(given.parameter.view(torch.int32))
            expected.append(theirs.parameter.view(torch.int32))
    assert torch.equal(torch.cat(found), torch.cat(expected))


def test_what_was_decoded_is_encoded_again(isa: str):
    """Second moments that a step leaves as they are keep their codes, the smallest too."""
    size = 512
    values = dynamic_map(CPU, signed=False).repeat(2)
    codes, absmax = encode(values, signed=False)
    m, m_absmax = torch.full((size,), 127, dtype=torch.uint8), torch.zeros(num_blocks(size))
    given = Segment(torch.zeros(size), m, codes.clone(), torch.tensor(1.0), m_absmax, absmax)
    hyper = Hyperparameters(0.0, 0.0, 1 - 2**-25, 1.0, 0.0)  # which is 1 in float32
    adamw_step([given], [torch.zeros(size)], [hyper], Gate.open(CPU))
    assert torch.equal(given.exp_avg_sq, codes)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def test_the_same_bits_on_any_number_of_threads(isa: str):
    gradients = [torch.randn(size) for size in (70000, 1, 300, 0, 99999)]
    found = []
    for count in (1, 2, 3):
        torch.manual_seed(0)
        with guarded() as memory, threads(count):
            segments = [segment(len(g), torch.float32, 8, False, memory) for g in gradients]
            gate = gradient_gate(gradients, max_norm=1.0)
            adamw_step(segments, gradients, [HYPER[0]] * len(segments), gate)
        found.append([gate.norm, *(s.parameter for s in segments), *(s.exp_avg for s in segments)])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_the_norm_is_that_of_all_instruction_sets():
    gradients = [torch.randn(999).to(dtype) * 1e3 for dtype in DTYPES]
    before, norms = native.cpu().isa(), set()
    for name in ISAS_AND_EMULATED:
        use(name)
        norms.add(native.cpu().squared_norm(gradients, 2))
    native.cpu().use_isa(before)
    assert len(norms) == 1


def test_no_map_but_a_dynamic_one_is_taken():
    even = torch.linspace(0, 1, 256).tolist()
    with pytest.raises(ValueError, match="map: should be a dynamic map, was not"):
        native.cpu().StateMaps(even, even)
