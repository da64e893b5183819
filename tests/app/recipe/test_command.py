"""`qlora recipe` as people and programs run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.lint.material import chat, pairs, support_talk
from app.lint.test_scripts import SAMPLES
from qlora.cli import main
from qlora.recipe import survey as survey_module
from qlora.settings import from_sources
from qlora.train.settings import TrainSettings


def recipe(capsys, *words) -> tuple[str, str]:
    assert main(["recipe", *map(str, words)]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def record(capsys, *words) -> dict:
    return json.loads(recipe(capsys, *words, "--json")[0])


def test_a_clean_file_gives_a_recipe_and_no_complaint(write, capsys):
    data = write(pairs(0, 2_000))
    out, err = recipe(capsys, data)
    assert err == ""
    assert out.startswith(f"# A recipe for {data}: 2,000 examples\n")
    assert "# model: give it here, or as --model" in out
    assert "dropout: 0.08" in out and "# 2,000 examples: between 0.1 at 1,000 and" in out


def test_what_it_prints_is_what_a_run_is_told(write, tiny, tmp_path, capsys):
    data = write(pairs(0, 1_500))
    out, _ = recipe(capsys, data)
    (tmp_path / "recipe.yaml").write_text(out, encoding="utf-8")
    told = from_sources(TrainSettings, tmp_path / "recipe.yaml", {"model": tiny})
    assert told == TrainSettings(model=tiny, data=data).following(1_500)


def test_a_run_by_the_recipe_is_a_bare_run(write, tiny, tmp_path, capsys):
    data = write(pairs(0, 40))
    out, _ = recipe(capsys, data, "--model", tiny, "--sequence-length", 32)
    (tmp_path / "recipe.yaml").write_text(out, encoding="utf-8")
    short = ["--steps", "1", "--evaluate-every", "1"]
    by_recipe = ["--config", tmp_path / "recipe.yaml", "--output", tmp_path / "by-recipe"]
    bare = ["--model", tiny, "--data", data, "--sequence-length", 32, "--output", tmp_path / "bare"]
    for words in (by_recipe, bare):
        assert main(["train", *map(str, words), *short]) == 0
    one, other = (
        tmp_path / name / "adapter/adapter_model.safetensors" for name in ("by-recipe", "bare")
    )
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    settings = [(tmp_path / n / "settings.yaml").read_text() for n in ("by-recipe", "bare")]
    assert settings[0].replace("by-recipe", "bare") == settings[1]


def test_few_examples_and_duplicates_are_told_on_stderr(write, capsys):
    out, err = recipe(capsys, write(support_talk()[:500]))
    assert "few-examples: 500 examples are few" in err
    assert "few-shot prompt" in err and "augmentation" in err and "synthetic" in err
    assert "duplicates: 490 of 500 (98%) rows repeat another" in err
    assert "leakage: 25 of 25 (100%) validation rows are in the training data too" in err
    assert "# leakage: 25 of 25" in out, "the file remembers"
    assert "#   -> first try them as a few-shot prompt" in out, "with what to do"


def test_leakage_into_a_file_of_its_own(write, capsys):
    train, held = write(pairs(0, 1_200)), write(pairs(1_190, 1_250), "held.jsonl")
    out, err = recipe(capsys, train, "--validation", held)
    assert "leakage: 10 of 60 (17%) validation rows" in err
    assert f"validation: {held}" in out and "validation_split" not in out


@pytest.mark.parametrize("script", ["Thai", "Ethiopic"])
def test_a_script_that_the_base_hardly_knows(write, tiny, capsys, script: str):
    """With the tokenizer of a base that met English plays alone."""
    rows = [chat(SAMPLES[script][1], f"Number {n}?") for n in range(30)]
    (notice,) = [
        n
        for n in record(capsys, write(rows), "--model", tiny)["notices"]
        if n["kind"] == "unknown-script"
    ]
    assert f"of the letters are {script}" in notice["message"]
    assert "multilingual base" in notice["fix"]
    assert "tokens per character, English takes 0." in notice["evidence"][0]


def test_the_tokenizer_finds_more(write, tiny, capsys):
    rows = [*pairs(0, 20), {"prompt": "On?", "completion": "word " * 80}]
    rows.append({"messages": [{"role": "user", "content": "Who is there?"}]})
    seen = record(capsys, write(rows), "--model", tiny, "--sequence-length", 64)
    assert [n["kind"] for n in seen["notices"]] == ["few-examples", "no-supervision", "truncation"]
    assert (seen["num_examples"], seen["exact"]) == (22, True)


def test_documents_are_counted_in_pieces(tiny, capsys):
    sonnets = Path(tiny).parent / "sonnets.txt"
    counted = record(capsys, sonnets, "--model", tiny, "--sequence-length", 64)
    guessed = record(capsys, sonnets, "--sequence-length", 64)
    assert counted["exact"] and not guessed["exact"]
    assert guessed["num_examples"] == -(-len(sonnets.read_text()) // 256)
    head = recipe(capsys, sonnets)[0].splitlines()[0]
    assert "sonnets.txt: about " in head and head.endswith(" examples (pieces of 512 tokens)")


def test_long_files_are_sampled(write, tiny, capsys, monkeypatch):
    monkeypatch.setattr(survey_module, "SAMPLE", 400)
    rows = [{"text": "To be or not to be. " * 10}, *pairs(0, 1)] * 600
    seen = record(capsys, write(rows), "--model", tiny, "--sequence-length", 32)
    whole = record(capsys, write(rows[:100]), "--model", tiny, "--sequence-length", 32)
    assert not seen["exact"]
    assert seen["num_examples"] == pytest.approx(12 * whole["num_examples"], rel=0.1)
    pairs_alone = record(capsys, write(pairs(0, 900)), "--model", tiny)
    assert (pairs_alone["num_examples"], pairs_alone["exact"]) == (900, True)


def test_json_has_settings_reasons_and_notices(write, capsys):
    seen = record(capsys, write(pairs(0, 300)))
    assert "model" not in seen["settings"]
    assert seen["settings"].keys() == seen["reasons"].keys()
    assert seen["settings"]["rank"] == 16 and seen["settings"]["max_norm"] == 1.0
    (notice,) = seen["notices"]
    assert notice.keys() == {"kind", "message", "evidence", "fix"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "recipe: DATA should be given, was missing"),
        (["nowhere.jsonl"], "nowhere.jsonl: cannot read the data"),
        (["{empty}"], "should hold at least one example, holds none"),
        (["{data}", "--model", "nowhere"], "nowhere should be a folder or .gguf file, is absent"),
        (["{data}", "--sequence-length", "1"], "sequence_length should be at least 2, was 1"),
    ],
    ids=["none", "absent", "empty", "model", "length"],
)
def test_bad_input_is_one_line(write, capsys, words, message):
    places = {"data": write(pairs(0, 9)), "empty": write("", "empty.jsonl")}
    assert main(["recipe", *(word.format(**places) for word in words)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_plain_install_suffices(write):
    """Without a model none of what the extra installs is imported."""
    absent = ["transformers", "rich", "yaml", "matplotlib", "tensorboard", "gguf", "accelerate"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from qlora.cli import main
sys.exit(main(["recipe", {str(write(pairs(0, 9)))!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "rank: 16" in done.stdout) == (0, True), done.stderr
