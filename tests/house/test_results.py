"""The figures that README quotes are those of the committed records, and they are good enough."""

import json
from pathlib import Path

from house.tree import ROOT, read

README = read(Path("README.md"))
RESULTS = ROOT / "bench/results"
DEMO = json.loads((RESULTS / "demo/report.json").read_text(encoding="utf-8"))
COMPARISON = json.loads((RESULTS / "demo-compare/result.json").read_text(encoding="utf-8"))


def test_the_demo_is_quoted_from_its_record():
    quoted = [
        f"| tuned | {DEMO['tuned_accuracy']:.1%} |",
        f"| zero-shot | {DEMO['zero_shot_accuracy']:.1%} |",
        f"| majority | {DEMO['majority_accuracy']:.1%} |",
        f"| base | {DEMO['base_accuracy']:.1%} |",
        f"{DEMO['bytes_per_weight']:.4f} bytes per quantized weight",
        f"{DEMO['seconds'] / 60:.1f} minutes",
    ]
    assert [text for text in quoted if text not in README] == []


def test_the_comparison_is_quoted_from_its_record():
    rows = [
        f"| {name} | {summary['mean']:.1%} | {summary['spread']:.1%} |"
        for name, summary in COMPARISON["summary"].items()
    ]
    quoted = [*rows, f"{COMPARISON['difference_points']:+.1f} points"]
    assert [text for text in quoted if text not in README] == []


def test_the_records_meet_the_goals():
    assert DEMO["tuned_accuracy"] >= 0.80
    assert DEMO["bytes_per_weight"] <= 0.517
    assert DEMO["seconds"] <= 600
    assert COMPARISON["difference_points"] >= -4.0
    assert {run["seed"] for run in COMPARISON["outcomes"]} >= {0, 1, 2}
