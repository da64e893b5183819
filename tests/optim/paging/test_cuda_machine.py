"""The machine of a GPU with streams that are stand-ins: every call that it makes, in its order."""

from contextlib import nullcontext

import pytest
import torch

from qlora_kernels.optim.paging import PagedStates, StateArray, cuda_machine

CPU = torch.device("cpu")
ARRAYS = (StateArray("exp_avg", torch.uint8),)
CALLER = "the caller's stream"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Stand-ins for torch.cuda; gives (stream that waits, stream that it waits for)."""
    seen: list[tuple[str, str]] = []

    class Stream:
        def __init__(self, device=None, name=None):
            self.name = name or f"stream {len(made) + 1}"
            made.append(self)

        def wait_event(self, event):
            seen.append((self.name, event.stream.name))

        def synchronize(self):
            pass

    class Event:
        def record(self, stream):
            self.stream = stream

        def query(self):
            return True

        def synchronize(self):
            pass

    made: list[Stream] = []
    caller = Stream(name=CALLER)
    made.clear()

    plain = torch.empty

    def unpinned(*shape, pin_memory=False, **options):
        return plain(*shape, **options)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: caller)
    monkeypatch.setattr(torch, "empty", unpinned)
    return seen


def step(pieces) -> None:
    for run, states in pieces:
        elements = torch.arange(run.start, run.start + run.count)
        states["exp_avg"].copy_((states["exp_avg"] * 3 + elements) % 251)


def trained(paged: PagedStates) -> list[torch.Tensor]:
    numbers = paged.add([(5000, ARRAYS), (300, ARRAYS), (9000, ARRAYS)])
    for _ in range(4):
        paged.update(numbers, step)
    return [states["exp_avg"] for states in paged.read(numbers).values()]


@pytest.mark.parametrize("in_file", [False, True])
def test_the_same_states_as_on_a_cpu(in_file, waits, tmp_path):
    place = tmp_path if in_file else None
    machine = cuda_machine.cuda_machine(CPU, place)
    paged = PagedStates(CPU, 6000, place, machine)
    assert all(map(torch.equal, trained(paged), trained(PagedStates(CPU))))
    stats = paged.stats()
    assert stats["copies_in"] > 0 and stats["resident_bytes"]["file" if in_file else "host"] > 0


def test_streams_wait_for_each_other_and_the_host_for_none(waits, monkeypatch):
    paged = PagedStates(CPU, 6000, None, cuda_machine.cuda_machine(CPU, None))
    numbers = paged.add([(20_000, ARRAYS)])
    paged.update(numbers, step)
    waits.clear()

    def refused(event):
        raise AssertionError("the host waits")

    monkeypatch.setattr(torch.cuda.Event, "synchronize", refused)
    paged.update(numbers, step)
    fetching, storing = "stream 1", "stream 2"
    assert set(waits) == {(storing, CALLER), (fetching, storing), (CALLER, fetching)}
