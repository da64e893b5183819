"""The study of generation: nothing is timed that chooses other tokens."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from bench import generate
from qlora_kernels.errors import InputError

FIXTURE = Path(__file__).parents[1] / "fixtures/tiny_shakespeare_llama"


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return parser.parse_args(["--model", str(FIXTURE), "--tokens", "4", "--rounds", "1", *words])


def test_a_small_run_leaves_a_record(tmp_path: Path):
    generate.run(arguments("--output", str(tmp_path / "r.json"), "--rank", "4"))
    record = json.loads((tmp_path / "r.json").read_text())
    assert set(record["ratios"]) == {"transformers float32", "transformers bfloat16"}
    assert all(rate > 0 for rate in record["tokens_per_second"].values())
    assert record["head_packing_seconds"] is None


def test_a_packed_head_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generate, "WORTH_IT_FROM", 2)
    generate.run(arguments("--output", str(tmp_path / "r.json")))
    assert json.loads((tmp_path / "r.json").read_text())["head_packing_seconds"] > 0


def test_other_tokens_are_not_timed(monkeypatch):
    answers = iter(torch.arange(8).split(4))
    monkeypatch.setattr(generate, "greedy", lambda *_: next(answers))
    with pytest.raises(InputError, match="ours should choose the tokens of transformers"):
        generate.run(arguments())
