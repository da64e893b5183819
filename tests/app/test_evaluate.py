import json
from pathlib import Path

import pytest
import torch

import qlora_kernels as qk
from qlora.cli import main
from qlora.evaluate import EvaluateSettings, evaluate_file
from qlora_kernels.errors import InputError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    line = '{"prompt": "Is %d odd?", "completion": "%s"}\n'
    path.write_text("".join(line % (n, ("Nay", "Aye")[n % 2]) for n in range(8)))
    return path


@pytest.fixture
def adapter(model, tmp_path: Path) -> Path:
    """An adapter that changes the model, of a rank and on layers that are not the default."""
    qk.prepare_model(model, qk.QLoRAConfig(rank=2, targets=["q_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in qk.nn.adapter_parameters(model).items():
        if name.endswith("lora_b"):
            parameter.data.normal_(std=0.5, generator=generator)
    qk.save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_base_and_adapter_side_by_side(tiny, data, adapter):
    alone = evaluate_file(EvaluateSettings(tiny, data))
    both = evaluate_file(EvaluateSettings(tiny, data, adapter))
    assert set(alone) == {"base"}
    assert set(both) == {"base", "adapter"}
    assert both["base"] == alone["base"]
    assert abs(both["adapter"].loss - both["base"].loss) > 0.01
    assert both["base"].num_examples == 8
    assert both["base"].accuracy == 0.0


def test_quantization_shows(tiny, data):
    losses = {
        name: evaluate_file(EvaluateSettings(tiny, data, format=name))["base"].loss
        for name in ("none", "int8", "nf4")
    }
    assert abs(losses["int8"] - losses["none"]) < abs(losses["nf4"] - losses["none"]) < 0.5


def test_packing_changes_little(tiny, data):
    packed = evaluate_file(EvaluateSettings(tiny, data))["base"]
    unpacked = evaluate_file(EvaluateSettings(tiny, data, packing=False))["base"]
    assert packed.loss == pytest.approx(unpacked.loss, rel=1e-5)


def test_the_table(tiny, data, adapter, capsys):
    words = ["evaluate", "--model", tiny, "--data", data, "--adapter", adapter]
    assert main(list(map(str, words))) == 0
    out = capsys.readouterr().out
    assert "tiny_shakespeare_llama (nf4) on data.jsonl" in out
    for word in ("loss", "perplexity", "exact match", "base", "adapter", "8 examples"):
        assert word in out


def test_json(tiny, data, capsys):
    words = ["evaluate", "--model", tiny, "--data", data, "--json"]
    assert main(list(map(str, words))) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["format"] == "nf4"
    assert values["results"]["base"]["num_examples"] == 8
    assert set(values["results"]["base"]) == {
        *("loss", "perplexity", "accuracy", "num_examples", "num_tokens")
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere"], "nowhere should be a model folder"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: cannot read"),
        (["--adapter", "nowhere"], "nowhere"),
        (["--batch-size", "0"], "evaluate: batch_size should be at least 1, was 0"),
        (["--sequence-length", "600"], "sequence_length should be at most the 512 positions"),
    ],
    ids=["model", "data", "adapter", "batch", "length"],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny, data, capsys, flags, message):
    words = ["evaluate", "--model", str(tiny), "--data", str(data), *flags]
    assert main(words) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("qlora: ")
    assert message in line
    assert captured.out == ""


def test_settings_are_checked_without_the_command(tiny, data):
    with pytest.raises(InputError, match="block_size"):
        EvaluateSettings(tiny, data, block_size=65)
