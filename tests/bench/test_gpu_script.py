"""`make gpu`: red tests stand first, nothing red is timed, what is cut off keeps its results."""

import json
import sys
from pathlib import Path
from time import monotonic

import pytest

from bench.gpu import command, measurements, verify
from bench.gpu.build import build
from bench.gpu.goals import goals_told
from bench.gpu.measurements import MEASUREMENTS, measure, num_records
from bench.gpu.place import REHEARSAL, Place, slug, variables
from bench.gpu.verify import Outcome, green_ops, read_report, run_tests
from bench.kernels import command as kernels
from bench.kernels.ops import OPS

REPORT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_quantize" name="test_bits[nf4]"/>
<testcase classname="tests.gpu.test_quantize" name="test_bits[fp4]">
  <failure message="AssertionError: codes&#10;more">trace</failure></testcase>
<testcase classname="tests.gpu.test_dequantize" name="test_bits"/>
<testcase classname="tests.gpu.test_qlora_linear" name="test_it">
  <skipped message="qlora_linear has no Triton kernel"/></testcase>
</testsuite></testsuites>"""
TESTS = [
    Outcome("quantize", "test_bits[nf4]", "passed"),
    Outcome("quantize", "test_bits[fp4]", "failed", "AssertionError: codes"),
    Outcome("dequantize", "test_bits", "passed"),
    Outcome("qlora_linear", "test_it", "skipped", "qlora_linear has no Triton kernel"),
]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, REHEARSAL, monotonic() + 100)


def test_the_report_is_read(tmp_path: Path):
    (tmp_path / "tests.xml").write_text(REPORT)
    assert list(read_report(tmp_path / "tests.xml", "triton")) == TESTS
    ops = {test.op for test in read_report(tmp_path / "tests.xml", "cuda")}
    assert ops == {"quantize (cuda)", "dequantize (cuda)", "qlora_linear (cuda)"}


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
    assert (test.status, test.name, test.message) == ("failed", "pytest ended with 3", "boom")


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
    assert "qlora_linear: not timed, bench has no such op" in lines
    assert "stopped\ndequantize: ended with 124" in lines
    assert num_records(place.output / "kernels.jsonl") == 1


def test_no_measurement_starts_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Place, "python", lambda *_, **__: pytest.fail("started"))
    late = Place(tmp_path, REHEARSAL, monotonic())
    green = {measurement.tested for measurement in MEASUREMENTS}
    assert all("no time is left" in line for line in measure(late, green, set(OPS)))


def test_every_measurement_is_a_command_that_bench_takes():
    for measurement in MEASUREMENTS:
        parser = kernels_parser()
        arguments = parser.parse_args(["--op", measurement.op, *measurement.options])
        assert list(kernels._cases(arguments))
    assert {measurement.op for measurement in measurements.MEASUREMENTS} == set(OPS)


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


def test_goals_are_told_and_never_asserted(tmp_path: Path):
    whole = tmp_path / "kernels.jsonl"
    assert all("was not timed" in line for line in goals_told(whole))
    case = {"format": "8bit"}
    records = [
        {"op": "adamw8bit", "case": case, "against": None, "ratio": None, "share_of_roof": 0.5},
        {"op": "adamw8bit", "case": case, "against": "torch", "ratio": 1.0, "share_of_roof": 0.7},
        {
            "op": "adamw8bit", "case": case, "against": "bitsandbytes", "ratio": 9.0,
            "share_of_roof": 0.7,
        },
    ]  # fmt: skip
    whole.write_text("".join(json.dumps(record) + "\n" for record in records))
    bandwidth, bitsandbytes, paged = goals_told(whole)
    assert bandwidth.endswith("at least 0.6, was 0.50: missed")
    assert bitsandbytes.endswith("at least 5, was 9.00")
    assert paged.endswith("was not timed")
