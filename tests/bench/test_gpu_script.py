"""`make gpu`: red tests stand first, nothing red is timed, what is cut off keeps its results."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from bench.gpu import command, measurements, verify
from bench.gpu.build import build
from bench.gpu.goals import GOALS, goals_told
from bench.gpu.measurements import MEASUREMENTS, measure, num_records
from bench.gpu.outcomes import Outcome
from bench.gpu.picture import picture
from bench.gpu.place import GPU, REHEARSAL, Place, slug, variables
from bench.gpu.verify import green_ops, run_tests
from bench.kernels import command as kernels
from bench.kernels.ops import OPS, STEPS
from qlora_kernels.errors import InputError

TESTS = [
    Outcome("quantize", "test_bits[nf4]", "passed"),
    Outcome("quantize", "test_bits[fp4]", "failed", "AssertionError: codes"),
    Outcome("dequantize", "test_bits", "passed"),
    Outcome("qlora_linear", "test_it", "skipped", "qlora_linear has no Triton kernel"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # what it runs is nobody's worker
    return Place(tmp_path, REHEARSAL, monotonic() + 100)


def test_outcomes_are_read_as_they_come(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Red, skipped and green by a real pytest; a run that dies keeps what it had, and is red."""
    tests = place.output / "test_quantize.py"
    tests.write_text(
        "import os, pytest\n"
        "def test_green(): pass\n"
        "def test_skipped(): pytest.skip('no kernel')\n"
        "def test_red(): assert 1 == 2\n"
        "def test_dies(): os._exit(7)\n"
    )
    monkeypatch.setattr(verify, "TESTS", str(tests))
    monkeypatch.setattr(verify, "LENIENT", ("--rootdir", str(place.output), "-c", "/dev/null"))
    there = replace(place, variables=variables(True, None))
    found = list(run_tests(there, "cuda"))
    assert [(o.op, o.name, o.status) for o in found] == [
        ("quantize (cuda)", "test_green", "passed"),
        ("quantize (cuda)", "test_skipped", "skipped"),
        ("quantize (cuda)", "test_red", "failed"),
        ("all (cuda)", "pytest ended with 7 after 3 tests", "failed"),
    ]
    assert found[1].message == "no kernel" and "assert 1 == 2" in found[2].message
    assert verify.earlier_tests(place.output) == found[:3]


def test_red_stands_first():
    assert command.told(TESTS) == [
        "RED quantize test_bits[fp4]: AssertionError: codes",
        "skipped qlora_linear: qlora_linear has no Triton kernel",
        "1 failed, 2 passed, 1 skipped",
    ]


def test_green_is_what_passed_and_never_failed():
    assert green_ops(TESTS) == {"dequantize"}


def test_tests_that_never_ran_are_red(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "PYTEST", ("-c", "print('boom'); raise SystemExit(3)"))
    (test,) = run_tests(place, "triton")
    name = "pytest ended with 3 after 0 tests"
    assert (test.status, test.name, test.message) == ("failed", name, "boom")


def test_stages_are_checked_and_sanitizers_leave_time(tmp_path: Path):
    assert command._stages("tests,bench") == ("tests", "bench")
    with pytest.raises(InputError, match=r"was 'bensh'.*bench"):
        command._stages("bensh")
    late = Place(tmp_path, GPU, monotonic() + 100)
    lines = list(verify.sanitize(late, 45, 150))
    assert len(lines) == 5 and all("not run" in line for line in lines)


def test_only_green_is_timed_and_records_are_kept(place: Place, monkeypatch: pytest.MonkeyPatch):
    ran: list[str] = []

    def python(self: Place, *words: str, seconds: float) -> tuple[int, str]:
        ran.append(words[words.index("--op") + 1])
        Path(words[words.index("--json") + 1]).write_text('{"op": 1}\n')
        return 124, "stopped"

    monkeypatch.setattr(Place, "python", python)
    lines = list(measure(place, {"dequantize", "quantize"}, {"dequantize"}))
    assert ran == ["dequantize"]
    assert "quantize: not timed, bench has no such op" in lines
    assert "dequantize (cuda): not timed, it is not green" in lines
    assert "stopped\ndequantize: ended with 124" in lines
    assert num_records(place.output / "kernels.jsonl") == 1
    list(measure(place, None, {"dequantize"}))  # no test ran: each check decides
    assert ran == ["dequantize"] * 3


def test_no_measurement_starts_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Place, "python", lambda *_, **__: pytest.fail("started"))
    late = Place(tmp_path, REHEARSAL, monotonic())
    green = {measurement.tested for measurement in MEASUREMENTS}
    assert all("no time is left" in line for line in measure(late, green, set(OPS)))


def test_what_is_listed_first_is_timed_first_and_the_rest_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """Time for three: few rows, which the first goals are about, in both backends, then many."""
    ran: list[tuple[str, ...]] = []

    def python(self: Place, *words: str, seconds: float) -> tuple[int, str]:
        ran.append(words)
        Path(words[words.index("--json") + 1]).write_text(f'{{"op": {len(ran)}}}\n')
        return 0, "table"

    left = property(lambda self: 100.0 if len(ran) < 3 else 0.0)
    monkeypatch.setattr(Place, "python", python)
    monkeypatch.setattr(Place, "rehearses", False)
    monkeypatch.setattr(Place, "seconds_left", left)
    (place.output / measurements.PART).write_text('{"op": "of a call that was killed"}\n')
    lines = list(measure(place, None, set(OPS)))
    backends_and_rows = [(w[w.index("--backend") + 1], w[w.index("--m") + 1]) for w in ran]
    assert backends_and_rows == [("triton", "1,16,64"), ("cuda", "1,16"), ("triton", "4096")]
    assert sum("no time is left" in line for line in lines) == len(MEASUREMENTS) - 3
    kept = (place.output / "kernels.jsonl").read_text().splitlines()
    assert [json.loads(line)["op"] for line in kept] == [1, 2, 3]


def test_every_measurement_is_a_command_that_bench_takes():
    for measurement in MEASUREMENTS:
        parser = kernels_parser()
        arguments = parser.parse_args(["--op", measurement.op, *measurement.options])
        assert list(kernels._cases(arguments))
    assert {m.op for m in measurements.MEASUREMENTS} == set(OPS) - set(STEPS)


def kernels_parser():
    import argparse

    parser = argparse.ArgumentParser()
    kernels.add_arguments(parser)
    return parser


def test_a_command_that_hangs_or_is_missing_is_told(place: Place):
    code, output = place.python("-c", "print('first'); import time; time.sleep(60)", seconds=3)
    assert code == 124 and "stopped after 3 s" in output
    assert place.call(["no-such-program"]) == (127, "no-such-program is not installed\n")
    assert place.python("-c", "print('x')") == (0, "x\n")


def test_what_is_not_built_has_a_reason(place: Place):
    lines = list(build(place))
    assert [line.split(":")[0] for line in lines] == ["_cuda", "_cpu"]
    assert "built already" in lines[1]


def test_the_rehearsal_interprets(tmp_path: Path):
    assert variables(True, None)["TRITON_INTERPRET"] == "1"
    paths = variables(False, tmp_path)["PYTHONPATH"].split(":")
    assert paths[-1] == str(tmp_path) and "TRITON_INTERPRET" not in variables(False, None)


def test_a_machines_name_is_a_folder():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_without_a_gpu_it_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    from bench.__main__ import main

    if command.gpu_model() is not None:
        pytest.skip("there is a GPU")
    assert main(["gpu", "--output", str(tmp_path)]) == 2
    expected = "bench gpu: should find an NVIDIA GPU, found none (--device cpu-interpreter)"
    assert expected in capsys.readouterr().err


def test_the_library_needs_no_native_module():
    program = (
        "import sys; sys.modules['qlora_kernels._cpu'] = None\n"
        "import torch, qlora_kernels as qk\n"
        "assert qk.backends()['cpu'] and qk.backends()['reference'] is None\n"
        "assert qk.dequantize(qk.quantize(torch.randn(100))).shape == (100,)\n"
    )
    place = Place(Path("."), REHEARSAL, monotonic() + 100)
    assert place.call([sys.executable, "-c", program]) == (0, "")


def record(op: str, **fields: object) -> dict[str, object]:
    times = {"median_ms": 1.0, "p20_ms": 1.0, "p80_ms": 1.0}
    case = {"shape": "llama-8b q/o", "m": 4096, "direction": "forward", "format": "nf4"}
    plain = {"op": op, "backend": "triton", "against": None, "ratio": None, "against_ms": None}
    made = {**plain, **times, "case": case, "roof_ms": 0.5, "share_of_roof": 0.5, **fields}
    return made | {"case": {**case, **made["case"]}}


def test_goals_are_told_and_never_asserted(tmp_path: Path):
    whole = tmp_path / "kernels.jsonl"
    assert all("was not timed" in line for line in goals_told(whole))
    case = {"format": "8bit"}
    records = [
        record("adamw8bit", case=case, share_of_roof=0.5),
        record("adamw8bit", case=case, against="torch", ratio=1.0, share_of_roof=0.7),
        record("adamw8bit", case=case, against="bitsandbytes", ratio=9.0, share_of_roof=0.7),
        record("adamw8bit", case=case, share_of_roof=0.65, backend="cuda"),
    ]
    whole.write_text("".join(json.dumps(record) + "\n" for record in records))
    bandwidth, bitsandbytes, paged = list(goals_told(whole))[-3:]
    assert bandwidth.endswith("at least 0.6, was 0.50 (triton), 0.65 (cuda)")
    assert bitsandbytes.endswith("at least 5, was 9.00 (triton)")
    assert paged.endswith("was not timed")


def test_a_block_adds_the_times_of_its_layers(tmp_path: Path):
    """Two layers of 1 ms and one of 4: 0.9 and 0.5 of a peer's time are 2.2 / 6 together."""
    whole = tmp_path / "kernels.jsonl"

    def against(shape: str, ours: float, theirs: float, m: int = 4096) -> dict[str, object]:
        case = {"shape": shape, "m": m}
        fields = {"against": "torch", "ratio": theirs / ours, "against_ms": {"median_ms": theirs}}
        return record("qlora_linear", case=case, median_ms=ours, **fields)

    records = [against("llama-8b q/o", 1.0, 0.1), against("llama-8b down", 4.0, 2.0)]
    whole.write_text("".join(json.dumps(each) + "\n" for each in records))
    (line,) = (line for line in goals_told(whole) if "a block, times bf16 cuBLAS" in line)
    assert line.endswith("should be at least 0.87, was 0.37 (triton): missed")


def test_every_goal_has_a_measurement_that_produces_it():
    """A record of the op, the peer, the rows and the direction that a goal asks for is made."""
    parser = kernels_parser()
    for goal in GOALS:
        meant = []
        for each in MEASUREMENTS:
            words = ["--op", each.op, *each.options, "--against", each.against]
            arguments = parser.parse_args(words)
            peers = arguments.against.split(",")
            for case in kernels._cases(arguments):
                fits = goal.op == case.op and goal.against in (None, *peers)
                fits &= goal.backend in (None, each.backend)
                fits &= goal.m is None or case.m in goal.m
                fits &= goal.direction in (None, case.direction)
                meant.append(fits and goal.format in (None, case.format))
        assert any(meant), goal.name


def test_records_make_a_picture(tmp_path: Path):
    whole = tmp_path / "kernels.jsonl"
    rival = record("qlora_linear", against="torch", ratio=1.0, against_ms={"median_ms": 2.0})
    lines = [rival, record("dequantize"), record("dequantize", backend="cuda")]
    whole.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert picture(whole, tmp_path / "kernels.png") == "3 records in kernels.png"
    assert (tmp_path / "kernels.png").stat().st_size > 1000
