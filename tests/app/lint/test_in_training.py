"""`qlora train` says what is wrong with its data before the first step, once."""

from pathlib import Path

import pytest

from app.lint.material import pairs
from qlora.cli import main
from qlora.train import lints, prepare


def words(tiny: Path, data: Path, output: Path, *more: object) -> list[str]:
    given = ["train", "--model", tiny, "--data", data, "--output", output, "--sequence-length", 32]
    return list(map(str, [*given, "--steps", 1, *more]))


def test_it_is_told_before_the_first_step_and_not_again_on_resuming(tiny, write, tmp_path, capsys):
    long = {"prompt": "[red]On?[/red]", "completion": "word " * 40}
    data = write([*pairs(0, 20), *pairs(0, 20), long])
    assert main(words(tiny, data, tmp_path / "run", "--dropout", 0.25)) == 0
    out, err = capsys.readouterr()
    before = out[: out.index("step 1/1")]
    for kind in ("few-examples", "strong-dropout", "leakage", "truncation", "duplicates"):
        assert f"\n{kind}: " in before
    assert "switches off 25% of 16 rank directions" in before
    assert "dropout" not in out[out.index("recipe      ") :].splitlines()[0], "it was given"
    assert "cut at 32 tokens" not in err, "the lint says it"
    assert main(words(tiny, data, tmp_path / "run", "--dropout", 0.25, "--resume", "auto")) == 0
    assert "leakage" not in capsys.readouterr().out


def test_texts_of_the_data_are_no_markup(tiny, write, tmp_path, capsys):
    row = {"prompt": "[red]On?[/red]", "completion": "[bold]"}
    assert main(words(tiny, write([*pairs(0, 9), row, row]), tmp_path / "run")) == 0
    assert '2 times, lines 10, 11: "[red]On?[/red] [bold]"' in capsys.readouterr().out


def test_clean_data_of_enough_rows_says_nothing(tiny, write, tmp_path, capsys):
    assert main(words(tiny, write(pairs(0, 1_000)), tmp_path / "run")) == 0
    out = capsys.readouterr().out
    assert not [line for line in out.splitlines() if line.startswith(("    ", "  ->"))]
    assert "recipe      alpha 32, dropout 0.1, weight_decay 0.05, learning_rate 5e-05" in out


@pytest.mark.parametrize("own_file", [True, False])
def test_the_split_is_the_one_that_is_trained_on(tiny, write, tmp_path, monkeypatch, own_file):
    """Not another draw: what the lints call validation is what validates."""
    seen = []
    monkeypatch.setattr(lints, "lint", lambda parts, tokenized: seen.append(parts) or [])
    data = write(pairs(0, 60))
    held = ["--validation", write(pairs(60, 70), "held.jsonl")] if own_file else []
    assert main(words(tiny, data, tmp_path / "run", *held)) == 0
    (parts,) = seen
    assert parts.split != own_file
    assert (len(parts.training), len(parts.validation)) == ((60, 10) if own_file else (57, 3))
    held_out = prepare.held_out(60, 3, seed=0)
    if not own_file:
        assert [p.place for p in parts.validation] == [f"line {n + 1}" for n in sorted(held_out)]
