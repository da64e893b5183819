"""Every element has one place, blocks are whole, and no two places overlap."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_kernels.errors import InputError
from qlora_kernels.formats.blockwise8 import BLOCK
from qlora_kernels.optim.paging import StateArray
from qlora_kernels.optim.paging.layout import ALIGN, Layout, block_bytes, run_bytes, smallest_page

EIGHT = (
    StateArray("exp_avg", torch.uint8, initial=3),
    StateArray("exp_avg_absmax", torch.float32, BLOCK),
)
MASTER = (*EIGHT, StateArray("master", torch.float32))
WIDE = (StateArray("exp_avg", torch.float32), StateArray("exp_avg_sq", torch.float32))
TENSORS = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from([EIGHT, MASTER, WIDE])), max_size=6
)


@settings(max_examples=100, deadline=None)
@given(st.lists(TENSORS, max_size=3), st.integers(smallest_page(WIDE), 20_000))
def test_every_state_has_one_place(parts, page_bytes):
    layout = Layout(page_bytes // ALIGN * ALIGN)
    numbers = [number for part in parts for number in layout.add(part)]
    tensors = [tensor for part in parts for tensor in part]
    assert numbers == list(range(len(tensors)))
    found: dict[int, list[tuple[int, int]]] = {number: [] for number in numbers}
    for number, page in enumerate(layout.pages):
        assert page.num_bytes <= layout.page_bytes
        frame = torch.zeros(page.num_bytes, dtype=torch.uint8)
        written = 0
        for run, states in page.views(frame):
            assert number in layout.pages_of[run.tensor]
            assert run.start % BLOCK == 0
            found[run.tensor].append((run.start, run.count))
            for array in run.arrays:
                view = states[array.name]
                assert view.dtype == array.dtype
                assert view.numel() == -(-run.count // array.elements)
                view.view(torch.uint8).add_(1)
                written += view.nbytes
        assert frame.max() <= 1, "two states share bytes"
        assert int(frame.sum()) == written
    for number, (num_elements, _) in enumerate(tensors):
        position = 0
        for start, count in sorted(found[number]):
            assert start == position
            position += count
        assert position == num_elements


def test_pages_are_full():
    """Only the last page of what is added together may have room for another block."""
    layout = Layout(64 * block_bytes(EIGHT))
    layout.add([(100_000, EIGHT), (3000, WIDE), (77, EIGHT), (50_000, EIGHT)])
    for page in layout.pages[:-1]:
        assert page.num_bytes + smallest_page(WIDE) > layout.page_bytes - ALIGN * len(WIDE)


def test_initial_values():
    layout = Layout(smallest_page(EIGHT) * 3)
    layout.add([(300, EIGHT)])
    frame = torch.full((layout.pages[0].num_bytes,), 99, dtype=torch.uint8)
    layout.pages[0].initialize(frame)
    [(_, states)] = layout.pages[0].views(frame)
    assert states["exp_avg"].eq(3).all() and states["exp_avg_absmax"].eq(0).all()


def test_a_page_too_small_is_refused():
    with pytest.raises(InputError, match="a page should hold 256 elements"):
        Layout(512).add([(1000, WIDE)])


def test_bytes():
    assert block_bytes(EIGHT) == BLOCK + 4
    assert run_bytes(EIGHT, 300) == 304 + 16  # 300 codes and 2 scales, each to a multiple of 16
