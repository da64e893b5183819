"""The figures that README quotes are those of the committed records, and they are good enough."""

import json
from pathlib import Path

from bench.doctor.matrix import fully_known, matrix_of
from house.tree import ROOT, read

README = read(Path("README.md"))
RESULTS = ROOT / "bench/results"
DEMO = json.loads((RESULTS / "demo/report.json").read_text(encoding="utf-8"))
PERPLEXITY = json.loads((RESULTS / "bases/perplexity.json").read_text(encoding="utf-8"))
ERRORS = json.loads((RESULTS / "bases/weights.json").read_text(encoding="utf-8"))["squared_error"]
COMPARISON = json.loads((RESULTS / "demo-compare/result.json").read_text(encoding="utf-8"))


def test_the_demo_is_quoted_from_its_record():
    quoted = [
        f"| tuned | {DEMO['tuned_accuracy']:.1%} |",
        f"| zero-shot | {DEMO['zero_shot_accuracy']:.1%} |",
        f"| majority | {DEMO['majority_accuracy']:.1%} |",
        f"| base | {DEMO['base_accuracy']:.1%} |",
        f"{DEMO['bytes_per_weight']:.4f} bytes per quantized weight",
        f"{DEMO['seconds'] / 60:.1f} minutes",
        f"{DEMO['num_test_rows']} test sentences\nmade from {DEMO['num_test_templates']} templates",
        *([f"On {DEMO['machine']['cores']} cores of an AMD EPYC"] if "machine" in DEMO else []),
    ]
    assert [text for text in quoted if text not in README] == []


def test_the_comparison_is_quoted_from_its_record():
    rows = [
        f"| {name} | {summary['mean']:.1%} | {summary['spread']:.1%} |"
        for name, summary in COMPARISON["summary"].items()
    ]
    quoted = [*rows, f"{COMPARISON['difference_points']:+.1f} points"]
    quoted += [f"ran at commit {COMPARISON['commit'][:7]};"]
    assert [text for text in quoted if text not in README] == []


def test_the_bases_are_quoted_from_their_records():
    quoted = [
        f"| {name} | {row['perplexity']:.2f} | {row['closed']:.0%} "
        f"| {row['interval'][0]:.0%} to {row['interval'][1]:.0%} |"
        for name, row in PERPLEXITY["table"].items()
    ]
    normal = ERRORS["normal"]
    tuned = sorted(row["nf4-tuned"] for name, row in ERRORS.items() if "encoder" in name)
    quoted += [
        f"{PERPLEXITY['tokens']:,} tokens",
        "Calibration read {:,} tokens".format(int(PERPLEXITY["calibration"].split()[-2])),
        f"{normal['nf4 searched']:.3f} of NF4's",
        f"nf4-tuned to {normal['nf4-tuned']:.3f}",
        f"{tuned[0]:.3f} to {tuned[-1]:.3f} times NF4's",
        f"{tuned[len(tuned) // 2]:.3f} in the middle",
    ]
    assert [text for text in quoted if text not in README] == []


def test_optimizer_and_dora_steps_are_quoted_from_their_records():
    lines = (RESULTS / "cpu-amd-epyc/adamw8bit.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    quoted = [
        f"| {r['case']['format']} | {r['against']} | {r['median_ms']:.1f} | {r['ratio']:.2f} |"
        for r in records
    ]
    shapes = {(r["case"]["n"], r["case"]["k"]) for r in records}
    assert {round(n * k / 1e6) for n, k in shapes} == {50} and {n for n, _ in shapes} == {448}
    quoted += ["50 million float32 parameters in 448 tensors"]
    for tokens in (512, 128):
        path = RESULTS / f"dora-step/{tokens}-tokens.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        quoted += [f"{record[f'{engine} added']:+.1%}" for engine in ("ours", "peft")]
    assert [text for text in quoted if text not in README] == []
    assert {r["check"] for r in records} == {"passed"}


def test_planner_and_watch_are_quoted_from_their_records():
    rows = json.loads((RESULTS / "planner/record.json").read_text(encoding="utf-8"))["rows"]
    off = sorted(row["off"] for row in rows)
    watch = json.loads((RESULTS / "watch-cost/smollm2.json").read_text(encoding="utf-8"))
    quoted = [
        f"{len(rows)} processes, off by {off[0]:+.1%} to {off[-1]:+.1%}",
        f"for {watch['share']:.2%} of a step",
    ]
    assert [text for text in quoted if text not in README] == []
    assert off[0] >= -0.05 and off[-1] <= 0.05 and watch["share"] <= 0.01


def test_the_doctor_is_quoted_from_its_records():
    for folder, quote in (
        ("doctor", "{0.right} of {0.faults} faults were named first, and none of the {0.healthy}"),
        ("doctor/first", "{0.right} of {0.faults} and {0.accused} healthy runs accused"),
    ):
        record = json.loads((RESULTS / folder / "record.json").read_text(encoding="utf-8"))
        matrix = matrix_of(fully_known(record["runs"]))
        assert quote.format(matrix) in " ".join(README.split())
        if folder == "doctor":
            assert matrix.right >= 0.85 * matrix.faults and not matrix.accused


def test_where_we_are_slower_is_said_as_long_as_it_is_so():
    generate = json.loads((RESULTS / "generate/smollm2.json").read_text(encoding="utf-8"))
    lines = (RESULTS / "cpu-amd-epyc/qlora_linear.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    narrow = [
        r["ratio"]
        for r in records
        if r["against"] == "torch" and r["case"]["direction"] == "forward"
        and r["case"]["n"] == 576 and r["case"]["m"] == 1
    ]  # fmt: skip
    said = {
        "A greedy token of that model takes us longer than transformers": min(
            generate["ratios"].values()
        ) < 1,
        "(576 wide) take longer than torch's dense ones": min(narrow) < 1,
    }  # fmt: skip
    assert {text: text in README for text in said} == said


def test_the_records_meet_the_goals():
    assert PERPLEXITY["table"]["nf4-tuned"]["closed"] >= 0.25
    assert ERRORS["normal"]["nf4 searched"] <= 0.865 and ERRORS["normal"]["nf4-tuned"] <= 0.785
    student = ERRORS["student-t8"]
    assert student["nf4 searched"] <= 0.885 and student["nf4-tuned"] <= 0.815
    assert DEMO["tuned_accuracy"] >= 0.80
    assert DEMO["bytes_per_weight"] <= 0.517
    assert DEMO["seconds"] <= 600
    assert COMPARISON["difference_points"] >= -4.0
    assert {run["seed"] for run in COMPARISON["outcomes"]} >= {0, 1, 2}
