"""peft folders without a model: what is written is read, by peft's own matching rule."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file

from formats.adapters import CONFIG_FILE, WEIGHTS_FILE, factors, folder
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import (
    AdapterFolder,
    AdapterFolderConfig,
    TokenRows,
    read_adapter_folder,
    write_adapter_folder,
)
from qlora_kernels.formats.adapter_folder.patterns import matches


def round_trip(adapter: AdapterFolder, path: Path) -> AdapterFolder:
    write_adapter_folder(adapter, path)
    return read_adapter_folder(path)


def assert_same(ours: AdapterFolder, theirs: AdapterFolder) -> None:
    for kind in ("layers", "embeddings"):
        mine, others = getattr(ours, kind), getattr(theirs, kind)
        assert mine.keys() == others.keys()
        for name, one in mine.items():
            other = others[name]
            assert torch.equal(one.a, other.a) and torch.equal(one.b, other.b)
            assert one.scaling == other.scaling
            assert (one.magnitude is None) == (other.magnitude is None)
            assert one.magnitude is None or torch.equal(one.magnitude, other.magnitude)
    for kind in ("biases", "saved_modules"):
        mine, others = getattr(ours, kind), getattr(theirs, kind)
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[name], others[name]) for name in mine)
    assert {n: tuple(r.indices) for n, r in ours.token_rows.items()} == {
        n: tuple(r.indices) for n, r in theirs.token_rows.items()
    }


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_written_is_read(tmp_path: Path, rslora: bool, dropout_on: str):
    config = AdapterFolderConfig(
        rslora=rslora, dropout=0.1, dropout_on=dropout_on, bias="lora_only", base_model="some/base"
    )
    adapter = AdapterFolder(
        layers={
            "model.layers.0.q_proj": factors(4, 12, 10, config.scaling(8, 4)),
            "model.layers.10.q_proj": factors(3, 12, 10, config.scaling(5, 3)),
            "model.layers.1.q_proj": factors(4, 12, 10, config.scaling(8, 4)),
        },
        config=config,
        embeddings={"model.embed_tokens": factors(4, 32, 12, config.scaling(8, 4))},
        biases={"model.layers.0.q_proj": torch.randn(10)},
        saved_modules={
            "model.embed_tokens.weight": torch.randn(32, 12),
            "norm.weight": torch.ones(12),
        },
        token_rows={"lm_head": TokenRows((3, 1), torch.randn(2, 12))},
    )
    read = round_trip(adapter, tmp_path / "adapter")
    assert_same(adapter, read)
    assert (read.config.dropout, read.config.dropout_on) == (0.1, dropout_on)
    assert read.config.base_model == "some/base"
    assert_same(read, round_trip(read, tmp_path / "again"))


def test_magnitudes_are_kept(tmp_path: Path):
    adapter = folder(magnitude=True)
    assert_same(adapter, round_trip(adapter, tmp_path))
    fields = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert fields["use_dora"] is True
    assert any(key.endswith(".lora_magnitude_vector") for key in load_file(tmp_path / WEIGHTS_FILE))


def test_a_magnitude_for_some_layers_only_is_no_peft_folder(tmp_path: Path):
    adapter = folder()
    layers = dict(folder(magnitude=True).layers)
    first = next(iter(layers))
    layers[first] = adapter.layers[first]
    with pytest.raises(InputError, match="every layer should have a magnitude or none"):
        write_adapter_folder(replace(adapter, layers=layers), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_names_that_would_select_each_other_get_exact_patterns(tmp_path: Path):
    adapter = AdapterFolder(
        layers={
            "q": factors(2, 6, 6, 1.0),
            "a.q": factors(4, 6, 6, 0.5),
            "b": factors(4, 6, 6, 0.5),
        },
        config=AdapterFolderConfig(),
    )
    assert_same(adapter, round_trip(adapter, tmp_path))
    names = {name: factor.rank for name, factor in adapter.layers.items()}
    patterns = json.loads((tmp_path / CONFIG_FILE).read_text())["rank_pattern"]
    for name, rank in names.items():
        assert patterns.get(get_pattern_key(patterns, name), 4) == rank, "peft sees the same ranks"


PIECES = [
    "a",
    "b",
    ".",
    r"\.",
    "layers",
    "0",
    "1",
    r"\d",
    "[ab]",
    "[^a]",
    ".*",
    "a+",
    "(a|b)",
    "^",
    "$",
    "?",
]


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join),
    name=st.lists(st.sampled_from(["a", "b", "layers", "0", "1"]), min_size=1, max_size=4).map(
        ".".join
    ),
)
def test_patterns_match_as_in_peft(pattern: str, name: str):
    try:
        theirs = get_pattern_key([pattern], name) is pattern
    except Exception:  # no regular expression: refused here as well
        with pytest.raises(InputError):
            matches(pattern, name)
        return
    assert matches(pattern, name) == theirs
