"""The page on continual learning shows what the committed record says."""

import json
from pathlib import Path

from bench.continual import table, write_tasks

ROOT = Path(__file__).parents[2]


def test_the_page_has_the_table_of_the_record():
    record = json.loads((ROOT / "bench/results/continual/tiny.json").read_text())
    assert table(record["runs"]) in (ROOT / "docs/continual.md").read_text()


def test_both_tasks_hold_out_the_same_sentences(tmp_path: Path):
    paths = write_tasks(tmp_path, seed=0)
    frames = {}
    for name, path in paths.items():
        prompts = [json.loads(line)["prompt"].split() for line in path.read_text().splitlines()]
        frames[name] = {(words[1], words[4]) for words in prompts}
    for part in ("train", "test"):
        assert frames[f"old-{part}"] == frames[f"new-{part}"]
    assert not frames["old-train"] & frames["old-test"]
