"""Several runs of a case: medians and spreads, slow peers called once, calls that go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.kernels import measure, passes
from bench.kernels.environment import _MARK
from bench.kernels.kept import Kept, foretold
from bench.kernels.record import Record, read
from bench.kernels.roof import Roof
from bench.kernels.runs import summed
from bench.kernels.table import between, spread

OPTIONS = ["--op", "qlora_linear", "--backend", "reference", "--shapes", "64x128"]
OPTIONS += ["--dtype", "fp32", "--direction", "forward", "--seconds", "0", "--threads", "1"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv(_MARK, "0")
    monkeypatch.setattr(measure, "measure", lambda dtype, _: Roof(10.0, 8.0, 9.0, 100.0, dtype))


def bench(path: Path, *options: str) -> list[dict]:
    assert main([*OPTIONS, "--json", str(path), *options]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(ours: float, theirs: float, rounds: int = 3) -> dict:
    times = {"p20_ms": ours, "p80_ms": ours, "rounds": 3}
    their = {"median_ms": theirs, "p20_ms": theirs, "p80_ms": theirs, "rounds": rounds}
    return {
        "median_ms": ours, **times, "against_ms": their, "ratio": theirs / ours, "roof_ms": 0.5,
    }  # fmt: skip


def test_runs_are_summed_by_medians_and_say_how_far_they_spread():
    found = summed([run(2.0, 8.0, 1), run(1.0, 6.0, 1), run(4.0, 4.0, 1)])
    assert (found["median_ms"], found["ratio"], found["rounds"]) == (2.0, 4.0, 9)
    assert found["against_ms"]["median_ms"] == 6.0 and found["against_ms"]["rounds"] == 3
    assert found["share_of_roof"] == 0.25
    ends = {"median_ms": (1.0, 4.0), "against_ms": (4.0, 8.0), "ratio": (1.0, 6.0)}
    assert found["between_runs"] == ends
    assert spread(found["against_ms"], 3) == "6, 1 call a run"
    assert between(found["between_runs"]["ratio"]) == "1-6"
    assert summed([run(2.0, 8.0)])["between_runs"] is None


def test_each_pass_is_over_all_cases_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[int] = []
    timed = passes.run_case

    def noted(session, case):
        order.append(case.m)
        yield from timed(session, case)

    monkeypatch.setattr(passes, "run_case", noted)
    records = bench(tmp_path / "r.jsonl", "--m", "1,2", "--runs", "3", "--against", "torch")
    assert order == [1, 2, 1, 2, 1, 2]
    assert [(r["case"]["m"], len(r["runs"]), r["rounds"]) for r in records] == [
        (1, 3, 9),
        (2, 3, 9),
    ]
    for record in records:
        least, most = record["between_runs"]["ratio"]
        assert least <= record["ratio"] <= most
    assert [r.line() for r in read(tmp_path / "r.jsonl")] == [json.dumps(r) for r in records]


def test_a_call_goes_on_where_another_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "r.jsonl"
    bench(path, "--m", "1,2", "--runs", "1")
    records = bench(path, "--m", "1,2,3", "--runs", "2", "--resume")
    assert [(r["case"]["m"], len(r["runs"])) for r in records] == [(1, 2), (2, 2), (3, 2)]
    before = path.read_text()
    bench(path, "--m", "1,2,3", "--runs", "2", "--resume")
    assert path.read_text() == before
    raised = bench(path, "--m", "1", "--runs", "1", "--resume", "--allocator", "raised")
    assert len(raised) == 4 and len(raised[0]["runs"]) == 2, "another allocator, another case"
    bench(path, "--m", "1", "--minutes", "1e-9", "--runs", "3", "--resume")
    assert "1 of 1 were not timed for want of time" in capsys.readouterr().out


def test_runs_of_other_code_are_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "r.jsonl"
    bench(path, "--m", "1")
    monkeypatch.setenv("QLORA_COMMIT", "another")
    assert main([*OPTIONS, "--m", "1", "--json", str(path), "--resume"]) == 2
    assert "--resume should go on with the same commit" in capsys.readouterr().err
    assert main([*OPTIONS, "--m", "1", "--resume"]) == 2
    assert "--json FILE" in capsys.readouterr().err
    older = json.loads(path.read_text())
    del older["runs"]
    path.write_text(json.dumps(older))
    assert main([*OPTIONS, "--m", "1", "--json", str(path), "--resume"]) == 2
    assert "records should have runs, these are older" in capsys.readouterr().err


def test_slow_peers_are_called_once_or_not_at_all(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    options = ["--m", "1,2,3", "--against", "torch", "--runs", "2"]
    records = bench(path, *options, "--once-over", "0")
    assert [r["against_ms"]["rounds"] for r in records] == [2, 2, 2]
    assert all(r["ratio"] > 0 for r in records)
    options = [*options, "--once-over", "0", "--slowest-call", "0"]
    records = bench(tmp_path / "s.jsonl", *options)
    assert [r["against"] for r in records] == ["torch", "torch", None], "two points are a line"
    assert records[2]["not_against"]["torch"].startswith("left out: a call would take about")
    other = ["--m", "3", *options[2:], "--resume", "--allocator", "raised"]
    assert bench(tmp_path / "s.jsonl", *other)[-1]["against"] == "torch", "paces are its own"
    records = bench(tmp_path / "s.jsonl", *options[:-2], "--resume")
    found = [r for r in records if r["settings"]["allocator"] == "default"]
    assert [(r["against"], len(r["runs"])) for r in found] == [("torch", 2)] * 3


def test_a_record_without_peers_gives_way_and_paces_are_read(tmp_path: Path):
    (alone,) = [Record(**{**vars(r), "runs": r.runs}) for r in _records(tmp_path)]
    kept = Kept()
    kept.add(alone)
    beside = replace(alone, against="torch", **summed([run(2.0, 5000.0)]))
    kept.add(beside)
    assert kept.records == [beside]
    pace = foretold(kept.records, "reference")
    (case,) = {key[1:] for key in pace.known}
    assert pace.known["torch", *case] == {1: 5.0} and pace.known["ours", *case] == {1: 0.002}


def _records(folder: Path) -> list[Record]:
    bench(folder / "alone.jsonl", "--m", "1")
    return read(folder / "alone.jsonl")
