"""The launch table by a clock that is made up: what it says is what the rule then chooses."""

import json
from pathlib import Path

import pytest

from bench.gpu.launch_table import ROWS, measured, planned, thresholds, with_entry
from qlora_kernels.ops.qlora_linear import triton_kernel, triton_plan
from qlora_kernels.ops.qlora_linear.triton_plan import Problem

# Fixed costs, and costs of a row: each plan is the best for some number of rows.
COSTS = {
    "skinny": (1.0, 1.0), "tile 16": (1.0, 1.0), "tile 32": (9.0, 0.5), "tile 64": (24.0, 0.25),
    "tile 128": (70.0, 0.125), "dense": (300.0, 0.0625),
}  # fmt: skip


def clock(name: str, m: int) -> float:
    fixed, a_row = COSTS[name]
    return fixed + a_row * m


def best(plans: tuple[str, ...], m: int) -> str:
    return min(plans, key=lambda name: clock(name, m))


def test_each_number_of_rows_gets_its_best_plan():
    plans = tuple(triton_plan.FORWARD)
    found = thresholds(plans, ROWS, clock)
    assert list(found) == list(plans) and list(found.values())[-1] is None
    for m in ROWS:
        chosen = next(name for name, limit in found.items() if limit is None or m <= limit)
        assert chosen == best(plans, m), m


def test_a_plan_that_is_never_best_is_left_out_and_noise_does_not_bring_one_back():
    def noisy(name: str, m: int) -> float:
        if name == "tile 64":
            return 1e6
        return clock(name, m) * (1.3 if (name, m) == ("skinny", 8) else 1.0)

    found = thresholds(tuple(triton_plan.FORWARD), ROWS, noisy)
    assert list(found) == ["skinny", "tile 32", "tile 128", "dense"]
    assert found["skinny"] >= 8


def test_the_rule_reads_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = json.loads(triton_plan.TABLE.read_text())
    path = tmp_path / "table.json"
    path.write_text(with_entry(table, 103, measured(lambda direction: clock, "a made-up GPU")))
    monkeypatch.setattr(triton_plan, "TABLE", path)
    caches = (triton_plan.launch_table, triton_plan._best)
    for cached in caches:
        cached.cache_clear()
    try:
        assert triton_plan.launch_table()[80] == {
            d: table["80"][d] for d in ("forward", "backward")
        }
        for m in ROWS:
            plan = triton_plan.forward_plan(Problem(m, 4096, 4096, architecture=103))
            wanted = triton_plan.FORWARD[best(tuple(triton_plan.FORWARD), m)]
            assert (plan.way, plan.block_m) == (wanted.way, wanted.block_m), m
    finally:
        for cached in caches:
            cached.cache_clear()


def test_the_committed_table_is_as_the_command_writes_it():
    text = triton_plan.TABLE.read_text()
    table = json.loads(text)
    assert with_entry(table, 80, table["80"]) == text


def test_a_plan_can_be_forced_and_is_given_back():
    rule = triton_kernel.forward_plan
    with planned("forward", "dense"):
        assert triton_kernel.forward_plan(Problem(1, 64, 64)).way == "dense"
    assert triton_kernel.forward_plan is rule
