"""The whole study on the tiny Llama: from training to the page, then again from its files."""

import json
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench
from bench.merging import command, judge
from bench.merging.judge import Judge, end_probability
from bench.merging.mixes import MERGED_SKILLS, MERGED_STYLES, SUBTRACTED_SKILLS
from bench.merging.table import page
from qlora.data import Example
from qlora.data.encode import IGNORE

TINY = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judge, "NUM_WRITTEN", 2)
    monkeypatch.setattr(judge, "MAX_WRITTEN", 4)


@pytest.mark.slow
def test_a_trial_from_training_to_the_page(
    tmp_path: Path, wordnet: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
):
    monkeypatch.setattr(command, "fetch_model", lambda say: TINY)
    monkeypatch.setattr(command, "fetch_wordnet", lambda say: wordnet)
    folders = ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    trial = ["merging", "--seeds", "0", "--share", "0.01", *folders]

    assert bench.main([*trial, "--tasks", "short"]) == 0
    assert not (tmp_path / "results").exists()
    assert bench.main(trial) == 0

    record = json.loads((tmp_path / "results/record.json").read_text())
    assert (tmp_path / "results/README.md").read_text() == page(record)
    assert (tmp_path / "results/skills.png").stat().st_size > 0
    assert [row["mix"] for row in record["skills"]] == [*MERGED_SKILLS, *SUBTRACTED_SKILLS]
    assert [row["mix"] for row in record["styles"]] == [*MERGED_STYLES]
    merged = {row["mix"]: row["merge"] for row in record["skills"] if "merge" in row}
    assert merged["both-0.5-intents"]["spec"]["weights"] == [1, -0.5]
    assert all(report["error"] < 1e-5 for report in merged.values())

    monkeypatch.setattr(judge, "evaluate", None)  # what is judged already is not judged again
    assert bench.main(trial) == 0
    assert json.loads((tmp_path / "results/record.json").read_text()) == record


def test_the_probability_of_the_end_is_the_models_own(wordnet: Path, tmp_path: Path):
    model = Judge(TINY, wordnet, tmp_path).put(None)
    tokens = [[5, 6, 7, 8, 9], [3, 4, 5]]
    examples = [Example(ids, [IGNORE, *ids[1:]], "completion", "a test") for ids in tokens]
    with torch.no_grad():
        own = [model(torch.tensor([ids])).logits[0, -2].softmax(-1)[ids[-1]] for ids in tokens]
    found = torch.tensor(end_probability(model, examples))
    torch.testing.assert_close(found, sum(own) / 2)
