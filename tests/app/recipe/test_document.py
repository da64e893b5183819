"""The recipe as YAML: whole, with a reason a line, read back as what it was."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qlora.recipe.document import OMITTED, SECTIONS, Recipe, as_yaml
from qlora.recipe.rules import NAMES
from qlora.settings import from_sources
from qlora.train.settings import TrainSettings

BARE = TrainSettings(model=Path("models/tiny llama"), data=Path("données: 1.jsonl"))
LISTED = [name for section in SECTIONS for name, _ in section]


def test_every_setting_is_in_the_recipe_or_left_out_on_purpose():
    every = {field.name for field in fields(TrainSettings)}
    assert sorted(LISTED) == sorted(set(LISTED))
    assert set(LISTED) | OMITTED == every
    assert not set(LISTED) & OMITTED
    assert set(NAMES) <= set(LISTED)


@pytest.mark.parametrize("num_examples", [1, 500, 5_000, 50_000, 500_000])
@pytest.mark.parametrize("validation", [None, Path("held out.jsonl")])
def test_it_is_read_back_as_what_a_bare_run_uses(tmp_path, num_examples: int, validation):
    told = replace(BARE, validation=validation)
    file = tmp_path / "recipe.yaml"
    file.write_text("\n".join(Recipe.of(told, num_examples).lines()), encoding="utf-8")
    assert from_sources(TrainSettings, file, {}) == told.following(num_examples)


@given(st.integers(1, 10**7))
def test_every_line_has_its_reason_and_any_yaml_its_number(num_examples: int):
    lines = Recipe.of(BARE, num_examples).lines()
    assert all("  # " in line and line.split("  # ")[1] for line in lines if line)
    read = yaml.safe_load("\n".join(lines))
    for name in NAMES:
        assert read[name] == getattr(BARE.following(num_examples), name)


@given(st.text(min_size=1) | st.floats(1e-12, 1e6) | st.booleans() | st.integers(0, 2**62))
def test_scalars_are_what_they_were(value):
    assert yaml.safe_load(f"key: {as_yaml(value)}  # why")["key"] == value


@pytest.mark.parametrize("text", ["no", "Null", "1e-3", "12", "a # b", "- x", "", "~", "1.2.3"])
def test_text_that_looks_like_something_else_stays_text(text: str):
    assert yaml.safe_load(f"key: {as_yaml(text)}")["key"] == text
