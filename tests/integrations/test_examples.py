"""The scripts of docs/examples that go through peft and transformers run as they are shown."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from integrations.conftest import TINY, TOKENS, logits

ROOT = Path(__file__).parents[2]

# What other people's packages warn of when they are used as they say.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

Run = Callable[[str, Path], dict[str, float]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys) -> Run:
    """`run("peft_adapters", model)`: what the script prints as `word number`."""
    text = tmp_path / "poems.txt"
    poems = (ROOT / "tests/fixtures/sonnets.txt").read_text().split("\n\n")
    text.write_text("\n\n".join(poems[:12]))

    def script(name: str, model: Path) -> dict[str, float]:
        arguments = [f"{name}.py", str(model), str(text), str(tmp_path)]
        monkeypatch.setattr(sys, "argv", arguments)
        torch.manual_seed(0)
        runpy.run_path(str(ROOT / "docs/examples" / f"{name}.py"), run_name="__main__")
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        pairs = [words for words in lines if len(words) == 2 and words[1][:1].isdigit()]
        return {word: float(number) for word, number in pairs}

    return script


def test_peft_adapters(run: Run, tmp_path: Path):
    told = run("peft_adapters", TINY)
    assert told["trained"] == told["reloaded"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert config.use_dora and not hasattr(merged.config, "quantization_config")
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}


def test_transformers_quantizer(run: Run, tmp_path: Path):
    run("transformers_quantizer", TINY)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with torch.no_grad(), model.disable_adapter():
        before = model(TOKENS).logits
    assert not torch.equal(logits(model), before)
    checkpoints = list((tmp_path / "run").glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for folder in checkpoints:
        assert [file.name for file in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]


def test_bitsandbytes_checkpoint(run: Run, tmp_path: Path):
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    theirs = tmp_path / "theirs"
    model = AutoModelForCausalLM.from_pretrained(TINY, quantization_config=config)
    model.save_pretrained(theirs)
    for file in TINY.glob("tokenizer*"):
        (theirs / file.name).write_bytes(file.read_bytes())
    told = run("bitsandbytes_checkpoint", theirs)
    assert told["loaded"] == told["reloaded"] > told["trained"]
