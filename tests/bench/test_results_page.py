"""The pages are what the committed records say, and a new record appears by itself."""

import json
import re
import shlex
from pathlib import Path

import pytest

from bench.__main__ import STUDIES, main
from bench.kernels import command as kernels_command
from bench.results_page import command
from bench.results_page.headline import BEGIN, END, headline, replaced
from bench.results_page.page import commands, page
from bench.results_page.sources import RESULTS, sources
from house.tree import ROOT
from qlora.cli import Parser

KERNEL = {
    "op": "dequantize",
    "case": {
        "shape": "llama-8b q/o", "n": 4096, "k": 4096, "m": 0, "dtype": "bf16",
        "direction": "forward", "rank": 16, "format": "nf4",
    },
    "backend": "triton", "against": "bitsandbytes", "median_ms": 2.0, "p20_ms": 1.5, "p80_ms": 2.5,
    "against_ms": {"median_ms": 3.0, "p20_ms": 3.0, "p80_ms": 3.0}, "ratio": 1.5,
    "share_of_roof": 0.5, "check": "passed", "against_check": "passed",
    "not_against": {"peft": "does not load: No module named 'peft'"},
    "settings": {
        "command": "python -m bench --op dequantize --backend triton",
        "roof": {"dtype": "bf16", "matrix_gflop_per_s": 790000.0, "read_gb_per_s": 3000.0},
    },
    "commit": "0123456789ab", "date": "2027-01-01", "versions": {"torch": "2.13.0"},
    "machine": {"cpu": "Some CPU", "cores": 26, "gpu": "NVIDIA H100"},
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What `make gpu` leaves, a study that nobody described, and a rehearsal."""
    gpu = tmp_path / "nvidia-h100"
    gpu.mkdir()
    (gpu / "kernels.jsonl").write_text(json.dumps(KERNEL) + "\n")
    (gpu / "dequantize.png").write_bytes(b"")
    (gpu / "tests.jsonl").write_text('{"op": "quantize", "status": "passed"}\n')
    (gpu / "report.txt").write_text("build: long\ngoal: adamw8bit: should be 5, was 6\n")
    (tmp_path / "another").mkdir()
    rows = [{"who": "ours", "tokens_per_second": 1234.5, "losses": [1, 2]}]
    record = {"command": "python -m bench another", "rows": rows}
    (tmp_path / "another/study.json").write_text(json.dumps(record))
    (tmp_path / "cpu-interpreter").mkdir()
    (tmp_path / "cpu-interpreter/kernels.jsonl").write_text(json.dumps(KERNEL) + "\n")
    return tmp_path


def test_the_pages_are_in_step_with_the_records(capsys: pytest.CaptureFixture[str]):
    assert main(["results", "--check"]) == 0, capsys.readouterr().out


def test_every_record_names_a_command_that_exists():
    targets = (ROOT / "Makefile").read_text()
    for source in sources(RESULTS):
        for told in commands(source):
            program, *words = shlex.split(told)
            if program == "make":
                assert f"\n{words[0]}:" in targets
            else:
                assert words[:2] == ["-m", "bench"], f"{source.path}: {told}"
                assert words[2] in STUDIES or words[2].startswith("--")


def test_every_record_names_its_commit_date_and_machine():
    """The demo's is of a time before it did; `make demo` names them now."""
    older = {Path("demo/report.json")}
    for source in sources(RESULTS):
        for record in source.records:
            absent = {"commit", "date", "machine"} - record.keys()
            assert not absent or source.path in older, f"{source.path}: {absent}"


def test_readme_names_commands_that_exist():
    readme, targets = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for word in re.findall(r"python -m bench ([\w-]+)", readme):
        assert word in STUDIES or word.startswith("--"), word
    for target in re.findall(r"`make ([\w-]+)", readme):
        assert f"\n{target}:" in targets, target


def test_a_kernels_command_is_taken_as_it_is_told():
    for source in sources(RESULTS):
        for told in commands(source) if source.is_of_kernels else []:
            parser = Parser("bench", "", "")
            kernels_command.add_arguments(parser)
            assert list(kernels_command._cases(parser.parse_strictly(shlex.split(told)[3:])))


def test_a_new_record_appears_by_itself(results: Path):
    text = page(sources(results), results)
    assert "## NVIDIA H100, Some CPU, 26 cores" in text
    assert "| llama-8b q/o, bf16, nf4 | 2 (1.5-2.5) | 50% | 1.50x (3 ms) |" in text
    assert "- not against peft: does not load" in text
    assert "![dequantize](nvidia-h100/dequantize.png)" in text
    assert "- goal: adamw8bit: should be 5, was 6" in text and "build: long" not in text
    assert "`python -m bench another`" in text
    assert "| who | tokens_per_second |\n| --- | ---: |\n| ours | 1234 |" in text
    assert "cpu-interpreter" not in text


def test_a_training_step_has_its_own_title_page_and_picture(results: Path):
    rows = [
        {"line": "qlora", "refused": True, "losses": [3.0]},
        {
            "line": "qlora raised", "refused": False, "times_slower_than_ours": 2.345,
            "tokens_per_second": 100.0, "slowest": 99.0, "fastest": 101.0,
            "peak_bytes": 1 << 30, "losses": [3.0, 2.5],
        },
    ]  # fmt: skip
    record = {
        "command": "python -m bench train-step", "problem": {"title": "tiny"}, "rounds": 3,
        "rows": rows,
    }  # fmt: skip
    (results / "train-step").mkdir()
    for name in ("a", "b"):
        (results / f"train-step/{name}.json").write_text(json.dumps(record))
        (results / f"train-step/{name}.png").write_bytes(b"")
        (results / f"train-step/{name}.md").write_text("")
    found = sources(results)
    text = page(found, results)
    assert text.count("### Training steps: tiny") == 2
    assert "| line | tokens/s | of 3 rounds |" in text
    assert "| qlora raised | 100.0 | 99.0 to 101.0 | 2.35 | 1,024 | 2.5000 |" in text
    assert "| qlora | refused: its losses are others |  |  |  | 3.0000 |" in text
    first, second = text.split("### Training steps: tiny")[1:]
    assert "![a](train-step/a.png)" in first and "train-step/a.md" in first
    assert "![b](train-step/b.png)" in second and "train-step/b.md" in second
    assert headline(found).count("a training step of ours") == 2


def test_a_peer_that_errs_is_marked_and_never_in_the_headline(results: Path):
    wrong = {**KERNEL, "against_check": "y: error 1, bound 0.1"}
    (results / "nvidia-h100/kernels.jsonl").write_text(json.dumps(wrong) + "\n")
    found = sources(results)
    assert "1.50x (3 ms)*" in page(found, results)
    assert "- \\* bitsandbytes: y: error 1, bound 0.1" in page(found, results)
    assert "dequantize" not in headline(found)


def test_several_runs_show_their_spread_and_slow_peers_are_marked(results: Path):
    slow = {**KERNEL["against_ms"], "rounds": 3}
    between = {"median_ms": [1.8, 2.2], "against_ms": [2.9, 3.1], "ratio": [1.4, 1.6]}
    reason = "left out: a call would take about 64 s (--slowest-call 5)"
    of_runs = {
        "runs": [{}, {}, {}], "rounds": 9, "between_runs": between, "against_ms": slow,
        "not_against": {"torch": reason},
    }  # fmt: skip
    other = {**KERNEL, "case": {**KERNEL["case"], "shape": "1x1"}, "against": "torch"}
    lines = [json.dumps({**KERNEL, **of_runs}), json.dumps(other)]
    (results / "nvidia-h100/kernels.jsonl").write_text("\n".join(lines))
    text = page(sources(results), results)
    assert "| case | ms (p20-p80) | of 3 runs | of roof | bitsandbytes | torch |" in text
    row = "| 2 (1.5-2.5) | 1.8-2.2 | 50% | 1.50x, 1.40-1.60 (3 ms)¹ | left out |"
    assert f"| llama-8b q/o, bf16, nf4 {row}" in text
    assert "- ¹ slow: one call in each run" in text and "- left out: by its times" in text
    assert "3 runs of each case, of some cases 1" in text and reason not in text


def test_roofs_of_cases_are_told_from_the_least_to_the_most(results: Path):
    roof = {**KERNEL["settings"]["roof"], "read_gb_per_s": 2900.5}
    other = {**KERNEL, "settings": {**KERNEL["settings"], "roof": roof}}
    lines = [json.dumps(KERNEL), json.dumps(other)]
    (results / "nvidia-h100/kernels.jsonl").write_text("\n".join(lines))
    told = "Roof as measured then: bf16 790,000.0 GFLOP/s, read 2,900.5 to 3,000.0 GB/s."
    assert told in page(sources(results), results)


def test_another_allocator_has_a_table_of_its_own(results: Path):
    raised = {**KERNEL, "settings": {**KERNEL["settings"], "allocator": "raised"}}
    lines = [json.dumps(KERNEL), json.dumps(raised)]
    (results / "nvidia-h100/kernels.jsonl").write_text("\n".join(lines))
    text = page(sources(results), results)
    assert "`dequantize`, backend triton:" in text
    assert "`dequantize`, backend triton, raised allocator:" in text
    told = headline(sources(results))
    assert "| `dequantize`, nf4, bf16, triton |" in told
    assert "| `dequantize`, nf4, bf16, triton, raised allocator |" in told


def test_the_headline_stands_between_its_marks(results: Path):
    table = headline(sources(results))
    assert "| `dequantize`, nf4, bf16, triton | times as fast as bitsandbytes 1.50 |" in table
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb\n", table) == f"a\n{table}\nb\n"
    with pytest.raises(ValueError, match="README should have the lines"):
        replaced("no marks", table)


def test_what_lags_behind_is_named(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    readme = results / "README.txt"
    readme.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(command, "RESULTS", results)
    monkeypatch.setattr(command, "README", readme)
    assert main(["results", "--check"]) == 1
    assert capsys.readouterr().out.count("run python -m bench results --write") == 2
    assert main(["results", "--write"]) == 0 and main(["results", "--check"]) == 0
