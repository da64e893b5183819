"""Flags, YAML and defaults become one frozen value, or one clear line."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from qlora.cli import Parser
from qlora.settings import add_arguments, from_arguments, from_sources, to_yaml
from qlora_kernels.errors import InputError


def setting(default, text="what it does"):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    model: Path = field(metadata={"help": "folder or file"})
    rank: int = setting(16, "size of the adapter")
    learning_rate: float = setting(2e-4)
    packing: bool = setting(True)
    format: Literal["nf4", "none"] = setting("nf4")
    steps: int | None = setting(None)
    targets: str | tuple[str, ...] = setting("all-linear")
    exclude: tuple[str, ...] = setting(())
    ranks: dict[str, int] = field(default_factory=dict, metadata={"help": "100% per layer"})


def parse(*words: str) -> Recipe:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Recipe)
    return from_arguments(Recipe, parser.parse_args(words))


@pytest.fixture
def yaml(tmp_path):
    """Writes run.yaml; returns its path as text."""

    def writer(text: str) -> str:
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    return writer


def test_defaults_need_only_what_has_none():
    assert parse("--model", "m") == Recipe(Path("m"))


def test_flags_of_every_type():
    words = "--model m --rank 8 --learning-rate 1e-3 --no-packing --format none --steps 5"
    lists = "--targets q v --exclude head --ranks q=4 v=2"
    recipe = parse(*words.split(), *lists.split())
    assert recipe == Recipe(
        Path("m"), 8, 1e-3, False, "none", 5, ("q", "v"), ("head",), {"q": 4, "v": 2}
    )
    assert parse("--model", "m", "--targets", ".*proj").targets == ".*proj"
    assert parse("--model", "m", "--exclude").exclude == ()


def test_flags_override_the_file_and_the_file_the_defaults(yaml):
    path = yaml("model: m\nrank: 4\nlearning_rate: 1e-3\nsteps: 9\n")
    recipe = parse("--config", path, "--rank", "8", "--steps", "none")
    assert (recipe.rank, recipe.learning_rate, recipe.steps) == (8, 0.001, None)


def test_written_settings_are_read_back(tmp_path):
    recipe = Recipe(Path("m"), 8, 1e-5, False, "none", 5, ("q",), ("head",), {"q": 4})
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(recipe))
    assert from_sources(Recipe, path, {}) == recipe
    assert path.read_text().splitlines()[0] == "model: m"


def test_an_empty_file_changes_nothing(yaml):
    assert from_sources(Recipe, yaml("# nothing\n"), {"model": "m"}) == Recipe(Path("m"))


def test_home_folder_is_found():
    assert parse("--model", "~/m").model == Path.home() / "m"


BAD_YAML = {
    "rnk: 3": r"run.yaml: unknown key 'rnk'; did you mean 'rank'\?",
    "learning-rate: 3": r"run.yaml: unknown key 'learning-rate'; did you mean 'learning_rate'\?",
    "zzz: 3": r"run.yaml: unknown key 'zzz' \(known: model, rank, ",
    "rank: many": r"run.yaml: rank should be a whole number, was the text 'many'",
    "rank: 1.5": r"run.yaml: rank should be a whole number, was 1.5",
    "rank: true": r"run.yaml: rank should be a whole number, was true \(a truth value",
    "rank:": r"run.yaml: rank should be a whole number, was empty",
    "learning_rate: fast": r"run.yaml: learning_rate should be a number, was the text 'fast'",
    "learning_rate: .nan": r"run.yaml: learning_rate should be a number, was nan",
    "learning_rate: [1]": r"run.yaml: learning_rate should be a number, was a list",
    "packing: 1": r"run.yaml: packing should be true or false, was 1",
    "format: no": r"run.yaml: format should be one of nf4, none, was false \(a truth value: quote",
    "format: nf5": r"run.yaml: format should be one of nf4, none, was the text 'nf5'; did you mea",
    "steps: x": r"run.yaml: steps should be a whole number, was the text 'x'",
    "targets: 3": r"run.yaml: targets should be text or a list, was 3",
    "exclude: head": r"run.yaml: exclude should be a list, was the text 'head'",
    "exclude: [1]": r"run.yaml: exclude\[0\] should be text, was 1",
    "ranks: {q: x}": r"run.yaml: ranks\[q\] should be a whole number, was the text 'x'",
    "model: ''": r"run.yaml: model should be a path, was the text ''",
    "- rank": r"run.yaml: should be a mapping of settings .*, was a list",
    "rank": r"run.yaml: should be a mapping of settings .*, was a single value",
    "rank: 1\nrank: 2": r"run.yaml: line 2 gives 'rank' a second time",
    "rank: [1": r"run.yaml: line 1: expected ',' or '\]'",
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML.items())
def test_bad_yaml_is_named(yaml, text, message):
    with pytest.raises(InputError, match=message):
        from_sources(Recipe, yaml(text), {"model": "m"})


BAD_FLAGS = {
    "--rank x": r"^--rank should be a whole number, was the text 'x'",
    "--learning-rate x": r"^--learning-rate should be a number, was the text 'x'",
    "--format nf5": r"^--format should be one of nf4, none, was the text 'nf5'; did you mean 'nf4'",
    "--ranks q": r"^--ranks should be NAME=VALUE, was 'q'",
    "--ranks q=x": r"^--ranks\[q\] should be a whole number, was the text 'x'",
    "--config absent.yaml": r"^absent.yaml: cannot read the settings: No such file or directory",
}


@pytest.mark.parametrize(("words", "message"), BAD_FLAGS.items())
def test_bad_flags_are_named(words, message):
    with pytest.raises(InputError, match=message):
        parse("--model", "m", *words.split())


def test_what_must_be_given_is_named():
    with pytest.raises(InputError, match=r"--model should be given \(or `model:` in the file"):
        parse("--rank", "3")


def test_unreadable_yaml(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"rank: \xff")
    with pytest.raises(InputError, match="cannot read the settings: it is not UTF-8 text"):
        from_sources(Recipe, tmp_path / "run.yaml", {})


def test_help_says_type_meaning_and_default(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser, Recipe)
    text = " ".join(parser.format_help().split())
    assert "--rank N size of the adapter (default: 16)" in text
    assert "--packing, --no-packing what it does (default: true)" in text
    assert "--format nf4|none" in text and "--targets [TEXT ...]" in text
    assert "--ranks [NAME=VALUE ...] 100% per layer" in text


@dataclass(frozen=True)
class Mix:
    parts: tuple[Path, ...] = field(default=(), metadata={"help": "of it", "positional": True})
    output: Path | None = field(default=None, metadata={"help": "of all", "short": "-o"})
    shares: tuple[float, ...] = setting(())
    lambda_: float = setting(1.0)


def mix(*words: str) -> Mix:
    parser = Parser("mix", "", "")
    add_arguments(parser, Mix)
    return from_arguments(Mix, parser.parse_strictly(words))


def test_positional_fields_and_short_flags():
    assert mix("a", "b", "-o", "c") == Mix((Path("a"), Path("b")), Path("c"))
    assert mix("--output", "c", "a").parts == (Path("a"),)
    assert mix() == Mix()


@pytest.mark.parametrize(
    "words", [["1.5,-2,3e-1"], ["1.5", "-2,3e-1"], ["1.5", "--shares", "-2", "0.3"]]
)
def test_a_list_of_numbers_with_commas_or_spaces(words):
    assert mix("--shares", *words).shares == (1.5, -2.0, 0.3)


def test_a_list_that_begins_with_minus_is_no_option():
    assert mix("--shares", "-.5,1").shares == (-0.5, 1.0)


def test_a_word_that_python_reserves(yaml):
    assert mix("--lambda", "0.5").lambda_ == 0.5
    assert from_sources(Mix, yaml("lambda: 0.5\nshares: 1,2\n"), {}) == Mix((), None, (1, 2), 0.5)
    assert "lambda: 0.5" in to_yaml(Mix(lambda_=0.5))
    with pytest.raises(InputError, match="unknown key 'lambda_'"):
        from_sources(Mix, yaml("lambda_: 0.5\n"), {})
