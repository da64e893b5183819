"""The kernel benchmark: nothing red is timed, everything timed is a complete record."""

import json
from itertools import cycle
from pathlib import Path
from time import sleep

import pytest
import torch

import qlora_kernels as qk
from bench.__main__ import main
from bench.kernels import measure, multiply_adds, ops, peers, roof
from bench.kernels.case import DIRECTIONS, Case, Contender
from bench.kernels.clock import MIN_ROUNDS, Timing, cpu_stopwatch, interleave, milliseconds, ratio
from bench.kernels.environment import _MARK, wanted
from bench.kernels.roof import Roof, stopwatch
from bench.kernels.shapes import shapes

DOCUMENTED = """
    op case backend against median_ms p20_ms p80_ms ratio share_of_roof check machine commit
    versions
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """No new process, no second spent on the machine's roof."""
    monkeypatch.setenv(_MARK, "0")
    monkeypatch.setattr(measure, "measure", lambda dtype, _: Roof(10.0, 8.0, 9.0, 100.0, dtype))


def bench(op: str, folder: Path, *options: str) -> list[dict]:
    path = folder / "records.jsonl"
    words = ["--op", op, "--shapes", "64x128", "--m", "5", "--seconds", "0", "--threads", "1"]
    assert main([*words, "--json", str(path), *options]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("op", ops.OPS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_op_is_checked_timed_and_recorded(op: str, dtype: str, tmp_path: Path):
    directions = "forward,forward+backward"
    backend = "cpu" if op in ops.STEPS else "reference"
    options = ["--backend", backend, "--dtype", dtype, "--direction", directions]
    records = bench(op, tmp_path, *options)
    assert records
    assert {record["case"]["direction"] for record in records} <= set(directions.split(","))
    for record in records:
        assert set(DOCUMENTED.split()) <= record.keys()
        assert record["check"] == "passed"
        assert 0 < record["p20_ms"] <= record["median_ms"] <= record["p80_ms"]
        assert record["share_of_roof"] == pytest.approx(record["roof_ms"] / record["median_ms"])


def test_each_peer_has_a_record(tmp_path: Path):
    names = ["torch", "bitsandbytes", "peft", "unsloth-style"]
    options = ["--backend", "reference", "--dtype", "fp32", "--direction", "forward+backward"]
    records = bench("qlora_linear", tmp_path, *options, "--against", ",".join(names))
    assert [record["against"] for record in records] == names
    assert [record["against_check"] for record in records] == ["passed"] * 4
    assert all(record["ratio"] > 0 for record in records)


def test_the_roof_is_measured_beside_each_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    roofs = (Roof(rate, rate, rate, 10 * rate, "fp32") for rate in (1.0, 2.0, 3.0, 4.0))
    monkeypatch.setattr(measure, "measure", lambda *_: next(roofs))
    options = ["--backend", "reference", "--dtype", "fp32", "--m", "5,6", "--runs", "2"]
    records = bench("qlora_linear", tmp_path, *options, "--direction", "forward")
    for record, rates in zip(records, ((1.0, 3.0), (2.0, 4.0)), strict=True):
        by_run = [run["roof_ms"] for run in record["runs"]]
        assert by_run[0] / by_run[1] == pytest.approx(rates[1] / rates[0], rel=1e-5)
        assert record["settings"]["roof"]["read_gb_per_s"] == rates[1]


def test_the_roof_of_a_cpu_is_of_this_minute(monkeypatch: pytest.MonkeyPatch):
    times = iter(range(1, 100))
    monkeypatch.setattr(roof, "CPU_BYTES", 1 << 12)
    monkeypatch.setattr(roof, "_best_ms", lambda *_: next(times))
    first, second = (roof.measure("fp32", "cpu") for _ in range(2))
    assert first.read_gb_per_s > second.read_gb_per_s


@pytest.mark.parametrize("threads", [1, 2])
def test_loops_of_the_roof_multiply_as_often_as_they_say(threads: int):
    library = multiply_adds._library()
    assert library is not None
    for rounds, found in ((1, 22.5), (100, 12.0)):  # from i / 2 in chain i, x becomes x / 2 + 1 / 2
        assert library.multiply_floats(threads, rounds, 0.5) == threads * found
    if library.num_pair_operations():
        assert library.multiply_pairs(threads, 2, 0.5) == threads * 45.0  # x + 1 / 4 + 1 / 4
    for call, operations in multiply_adds.loops(threads, "bf16"):
        assert operations > 0.99 * threads * multiply_adds.OPERATIONS
        assert milliseconds(call) > 1e3 * multiply_adds.OPERATIONS / 1e13  # no core does as many


def test_pairs_of_bf16_are_no_roof_of_float32():
    assert len(multiply_adds.loops(1, "fp32")) == 1 <= len(multiply_adds.loops(1, "bf16"))


def test_the_matrix_rate_of_a_cpu_is_the_better_of_a_product_and_a_loop(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(roof, "CPU_BYTES", 1 << 12)
    monkeypatch.setattr(roof, "CPU_SIZE", 64)
    found = roof.measure("fp32", "cpu")
    assert found.matrix_gflop_per_s == found.loop_gflop_per_s  # 64 rows are too few for a library
    monkeypatch.setattr(multiply_adds, "_library", lambda: None)
    assert roof.measure("fp32", "cpu").loop_gflop_per_s is None


def test_the_roofline_is_a_picture(tmp_path: Path):
    bench("dequantize", tmp_path, "--plot", str(tmp_path / "roof.png"), "--backend", "reference")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_red_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = qk.qlora_linear
    monkeypatch.setattr(qk, "qlora_linear", lambda *given: 1.01 * right(*given))
    words = ["--op", "qlora_linear", "--backend", "cpu", "--shapes", "64x128", "--m", "2"]
    monkeypatch.setattr(measure, "interleave", lambda *_: pytest.fail("timed"))
    measure._qualified.cache_clear()
    assert main([*words, "--dtype", "fp32", "--threads", "1"]) == 1
    measure._qualified.cache_clear()
    assert "cpu is red, not timed: " in capsys.readouterr().out


def test_a_missing_peer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    options = ["--against", "peft,torch", "--backend", "reference"]
    options += ["--dtype", "fp32", "--direction", "forward"]
    (record,) = bench("qlora_linear", tmp_path, *options)
    assert record["against"] == "torch"
    assert record["not_against"]["peft"].startswith("does not load")
    printed = capsys.readouterr().out
    assert printed.count("not against peft: does not load") == 2  # at once, and below the table
    assert bench("quantize", tmp_path, "--against", "torch", "--backend", "reference")
    assert "not against torch: bench has no quantize of it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--op", "qlora_liner"], "did you mean 'qlora_linear'?"),
        (["--op", "quantize", "--shapes", "llama-9b"], "did you mean 'llama-"),
        (["--op", "quantize", "--m", "1;2"], "--m should be numbers"),
        (["--op", "quantize", "--against", "pytorch"], "did you mean 'torch'?"),
        (["--op", "quantize", "--backend", "gpu"], "--backend 'gpu' is unknown"),
        (["--op", "quantize", "--dtype", "bf17"], "did you mean 'bf16'?"),
        (["--op", "qlora_linear_repeated", "--backend", "reference"], "is of --backend cpu"),
    ],
)
def test_bad_options_are_one_line(options, error: str, capsys: pytest.CaptureFixture[str]):
    assert main(options) == 2
    captured = capsys.readouterr().err
    assert error in captured and captured.count("\n") == 1


def test_shapes_by_name_are_distinct():
    found = shapes("llama-7b,4096x4096,8x16", "qlora_linear")
    assert found == [
        ("llama-7b q/k/v/o", 4096, 4096),
        ("llama-7b gate/up", 11008, 4096),
        ("llama-7b down", 4096, 11008),
        ("8x16", 8, 16),
    ]
    assert shapes("llama-8b", "linear_cross_entropy") == [("llama-8b head", 128256, 4096)]


def test_rounds_alternate_and_ratios_are_paired():
    order: list[str] = []
    watches = [lambda n=name: (order.append(n), float(len(order)))[1] for name in "ab"]
    ours, _ = interleave(watches, 0.0)
    assert len(ours.rounds_ms) == MIN_ROUNDS
    assert order[:4] == ["a", "b", "b", "a"]
    assert ratio(Timing((1.0, 10.0, 2.0)), Timing((2.0, 20.0, 2.0))) == 2.0


def test_a_stopwatch_takes_turns_over_the_copies():
    seen: list[int] = []
    calls = tuple(lambda i=i: seen.append(i) for i in range(3))
    sample = cpu_stopwatch(Contender("x", calls), sample_ms=0.0)
    del seen[:]
    for _ in range(3):
        sample()
    assert seen == [0, 1, 2, 0, 1, 2]  # each time one that is not counted, and one that is


@pytest.mark.parametrize("copies", [1, 3])
def test_a_stopwatch_does_not_count_the_call_that_warms_up(copies: int):
    seconds = cycle([0.005, 0.0])  # after another contender, and again
    calls = (lambda: sleep(next(seconds)),) * copies
    sample = cpu_stopwatch(Contender("x", calls), sample_ms=0.0)
    assert all(sample() < 2.5 for _ in range(4))


@pytest.mark.parametrize("trains", [True, False])
def test_autograd_is_as_the_calls_want_it(trains: bool):
    seen: list[bool] = []
    calls = (lambda: seen.append(torch.is_grad_enabled()),)
    sample = stopwatch(Contender("x", calls, trains=trains), "cpu")
    with torch.set_grad_enabled(not trains):
        sample()
        assert torch.is_grad_enabled() is not trains
    assert set(seen) == {trains}


def test_the_allocator_is_set_before_the_process_starts():
    assert "MALLOC_MMAP_THRESHOLD_" not in wanted(2, "default")
    assert wanted(2, "raised")["MALLOC_TRIM_THRESHOLD_"] == "8000000000"
    assert wanted(2, "raised")["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("name", sorted(peers.PEERS.keys() - {"torchao", "triton"}))
def test_peers_are_installed_where_tests_run(name: str):
    assert peers.load(name)[name].missing() is None


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_torchao_is_held_to_its_own_weight(direction: str, tmp_path: Path):
    if reason := peers.load("torchao")["torchao"].missing():
        pytest.skip(f"torchao {reason}")
    options = ["--against", "torchao", "--backend", "reference", "--direction", direction]
    options += ["--shapes", "128x128"]  # it wants whole groups of 256 scales
    (record,) = bench("qlora_linear", tmp_path, *options)
    assert record["against_check"] == "passed"


def test_a_record_names_its_command_and_clocks(tmp_path: Path):
    (record,) = bench("quantize", tmp_path, "--backend", "reference")
    command = record["settings"]["command"]
    assert command.startswith("python -m bench --op quantize --shapes 64x128")
    assert "--json" not in command
    assert record["settings"]["clocks"].keys() == {"cpu_mhz", "governor"}


def test_costs_count_every_byte_once():
    case = Case("qlora_linear", "64x128", 64, 128, 4, "bf16", rank=0)
    op = ops.load("qlora_linear")
    problem = op.problem(case, "cpu", 0)
    assert problem.x.dtype == torch.bfloat16
    assert op.cost(problem).num_bytes == problem.q.nbytes + 2 * 4 * (64 + 128)
    assert op.cost(problem).num_flops == 2 * 4 * 64 * 128
