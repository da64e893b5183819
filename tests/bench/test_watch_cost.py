"""The study of the watch's cost times what a step really does."""

import argparse
import json
from pathlib import Path

from bench import watch_cost

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_a_small_run_leaves_a_record(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(watch_cost.step_module, "judge", watch_cost.step_module.judge)
    monkeypatch.setattr(watch_cost.step_module, "act_on", watch_cost.step_module.act_on)
    parser = argparse.ArgumentParser()
    watch_cost.add_arguments(parser)
    words = {
        "model": FIXTURES / "tiny_shakespeare_llama",
        "data": FIXTURES / "sonnets.txt",
        "output": tmp_path / "record.json",
        "steps": 2,
    }
    flags = [str(text) for name, value in words.items() for text in (f"--{name}", value)]
    watch_cost.run(parser.parse_args(flags))
    record = json.loads((tmp_path / "record.json").read_text())
    assert 0 < record["watch_ms"] < record["step_ms"]
    assert 0 < record["share"] < 1
    assert record["preflight_steps"] > 0
