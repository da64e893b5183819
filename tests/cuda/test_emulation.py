"""The emulation itself: what is right comes out, what is wrong is told, whatever the schedule."""

from typing import Any

import pytest
import torch

from cuda.build import ROOT, emulated
from cuda.conftest import SCHEDULES

HERE = ROOT / "tests/cuda"


@pytest.fixture(scope="module")
def probes() -> Any:
    return emulated("_probes", [HERE / "probes.cu"], [HERE / "probes.cpp"])


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES)
def probe(request: pytest.FixtureRequest, probes: Any) -> Any:
    """Runs a kernel over integers and returns what it made of them."""
    probes.set_schedule(request.param)

    def run(name: str, values: torch.Tensor | None = None) -> torch.Tensor:
        data = torch.arange(257, dtype=torch.int32) if values is None else values.clone()
        data[256] = 0
        probes.probe(name, data.data_ptr())
        return data

    return run


def test_a_barrier_orders_threads(probe: Any):
    assert probe("reverse")[:256].tolist() == list(range(256))[::-1]
    assert probe("neighbour")[:256].tolist() == [i ^ 1 for i in range(256)]


@pytest.mark.parametrize("name", ["reverse without", "neighbour without"])
def test_a_missing_barrier_is_a_race(probe: Any, name: str):
    with pytest.raises(RuntimeError, match=r"probe: threads \d+ and \d+ race for byte"):
        probe(name)


def test_divergence_names_the_place(probe: Any):
    with pytest.raises(RuntimeError, match=r"diverge.* __syncthreads at probes\.cu:\d+.*returned"):
        probe("diverging")
    with pytest.raises(RuntimeError, match=r"diverge.* __shfl_xor_sync at probes\.cu:\d+"):
        probe("leaving")
    test_a_barrier_orders_threads(probe)  # and the next launch is a new one


@pytest.mark.parametrize("seed", SCHEDULES.values(), ids=SCHEDULES)
def test_thread_blocks_wait_for_each_other(probes: Any, seed: int):
    """Resident together they go on in turn; one after the other, the first would wait for ever."""
    probes.set_schedule(seed)
    data = torch.zeros(257, dtype=torch.int32)
    probes.probe_grid(4, True, data.data_ptr())
    assert data[8:12].tolist() == [10] * 4 and data[16] == 10
    assert data[256] == 0, "the next launch counts from zero"
    for is_cooperative, blocks, reason in ((False, 4, "wait for others"), (True, 5, "too many")):
        with pytest.raises(RuntimeError, match=f"probe: .*{reason}"):
            probes.probe_grid(blocks, is_cooperative, data.zero_().data_ptr())


def test_lanes_meet(probe: Any):
    values = torch.arange(257, dtype=torch.int32) * 7 % 101
    expected = []
    for i in range(256):
        warp = values[i // 32 * 32 :][:32].tolist()
        lane, value = i % 32, int(values[i])
        before = warp[max(0, lane - 1)]
        after = warp[lane + 1] if lane % 8 < 7 else value
        odd, same = sum(v % 2 for v in warp), sum(v % 3 == value % 3 for v in warp)
        large = int((values[:256] > 10).sum())
        expected.append(sum(warp) + 3 * before + 5 * after + 7 * odd + 11 * same + 13 * large)
    ours = probe("collective", values)
    assert ours[:256].tolist() == expected
    assert ours[256] == 8 * sum(range(32))


def test_copies_arrive_when_they_are_waited_for(probe: Any):
    assert probe("copying")[:256].tolist() == list(range(256))[::-1]
    assert (probe("copying without")[:256] == -1).all()  # what shared memory starts with


def test_rounding_is_torchs(probe: Any):
    random = torch.Generator().manual_seed(5)
    bits = torch.randint(-(2**31), 2**31, (257,), generator=random, dtype=torch.int64).int()
    bits[:64] = (torch.arange(64).int() << 15) + 0x3F800000  # ties of bfloat16
    bits[64:128] = (torch.arange(64).int() << 12) + 0x3F800000  # and of half precision
    bits[128:192] = (torch.arange(64).int() << 18) + 0x33000000  # and what is subnormal there
    floats = bits.view(torch.float32)
    ours = probe("rounding", bits)
    keep = ~floats.isnan()
    for shift, dtype in ((16, torch.bfloat16), (0, torch.float16)):
        expected = floats.to(dtype).view(torch.int16).int() & 0xFFFF
        assert torch.equal(((ours >> shift) & 0xFFFF)[:256][keep[:256]], expected[:256][keep[:256]])
