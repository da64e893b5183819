"""One line for each thing that cannot be merged, and nothing is written."""

import json
from dataclasses import replace

import pytest
import torch

from app.merge.material import adapter
from qlora.cli import main
from qlora.merge import MergeSpec, merge_folders
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import LayerFactors, write_adapter_folder


@pytest.fixture
def places(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter_folder(adapter(seed), tmp_path / name)
    return tmp_path


def refused(places, capsys, *words: str) -> str:
    """The one line on the error stream; the folders are as they were."""
    before = sorted(map(str, places.rglob("*")))
    assert main(["merge", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(map(str, places.rglob("*"))) == before
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "tie"], "was 'tie'; did you mean 'ties'?"),
        (["--weights", "1,2,3"], "weights should be one per adapter, 2, were 3"),
        (["--weights", "-1,1"], "weights of an average should not sum to 0"),
        (["--weights", "1,nan"], "--weights[1] should be a number"),
        (["--weights", "1,inf"], "weights and lambda should be finite"),
        (["--method", "ties", "--density", "0"], "density should be in (0, 1], was 0"),
        (["--method", "ties", "--density", "1.5"], "density should be in (0, 1], was 1.5"),
        (["--density", "0.5"], "average should not be given density"),
        (["--rank", "many"], "rank should be a number from 1, full, or energy:X"),
        (["--trim-scope", "layer"], "--trim-scope should be one of model, tensor"),
        (["--eval-data", "t=nowhere.jsonl"], "--eval-data needs --model"),
        (["--base", "nowhere"], "nowhere should be a model folder with safetensors"),
    ],
)
def test_options(places, capsys, flags, message):
    words = [str(places / "a"), str(places / "b"), "-o", str(places / "out"), *flags]
    assert message in refused(places, capsys, *words)


def test_places(places, capsys):
    a, out = str(places / "a"), str(places / "out")
    assert "at least one folder" in refused(places, capsys, "-o", out)
    assert "--output should be" in refused(places, capsys, a)
    line = refused(places, capsys, a, str(places / "absent"), "-o", out)
    assert line.endswith("absent should be an adapter folder, is absent")
    assert "another folder than the adapters" in refused(places, capsys, a, "-o", a)
    assert "should not exist yet" in refused(places, capsys, a, "-o", str(places / "b"))


def test_a_folder_of_another_kind(places, capsys):
    config = places / "b" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "IA3"}))
    words = [str(places / "a"), str(places / "b"), "-o", str(places / "out")]
    assert "should describe a LORA adapter" in refused(places, capsys, *words)


def test_shapes_that_disagree_are_named():
    first, second = adapter(1), adapter(2)
    name = "blocks.0.up_proj"
    wide = LayerFactors(torch.zeros(3, 11), torch.zeros(20, 3), 1.0)
    second = replace(second, layers={**second.layers, name: wide})
    with pytest.raises(InputError) as caught:
        merge_folders([first, second], ["maths", "chat"], MergeSpec())
    assert str(caught.value) == (
        f"merge: {name} should have one shape [out, in] in all adapters, was [20, 10] in maths and "
        "[20, 11] in chat"
    )


@pytest.mark.parametrize("part", ["biases", "saved_modules"])
def test_what_is_no_update(part):
    folder = replace(adapter(1), **{part: {"blocks.0.q_proj": torch.zeros(12)}})
    with pytest.raises(InputError, match=r"maths should hold LoRA factors only, has .*q_proj"):
        merge_folders([folder], ["maths"], MergeSpec())


def test_nothing_at_all():
    with pytest.raises(InputError, match="at least one"):
        merge_folders([], [], MergeSpec())
