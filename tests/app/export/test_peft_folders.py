"""Every kind of adapter that peft writes is read, written again, and the same in peft."""

import shutil

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from app.export.conftest import KINDS, by_peft, logits
from qlora import cli
from qlora_kernels.formats.adapter_folder import read_adapter_folder


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_we_make_of_its_folder(bases, tokens, tmp_path, kind: str):
    theirs = by_peft(bases(kind), KINDS[kind])
    theirs.save_pretrained(tmp_path / "theirs")
    command = ["export", "--to", "adapter", "--adapter", str(tmp_path / "theirs")]
    assert cli.main([*command, "--output", str(tmp_path / "ours")]) == 0
    base = AutoModelForCausalLM.from_pretrained(bases(kind), dtype=torch.float32)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    torch.testing.assert_close(logits(again, tokens), logits(theirs, tokens))
    shutil.rmtree(tmp_path / "theirs")


@pytest.mark.parametrize("reader", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("kind", ["lora", "rslora", "patterns"])
def test_one_rank_and_one_alpha_say_the_same(bases, tokens, tmp_path, caplog, kind, reader):
    theirs = by_peft(bases(kind), KINDS[kind])
    theirs.save_pretrained(tmp_path / "theirs")
    command = [
        "export",
        "--to",
        "adapter",
        "--reader",
        reader,
        "--adapter",
        str(tmp_path / "theirs"),
    ]
    assert cli.main([*command, "--output", str(tmp_path / "ours")]) == 0
    config = read_adapter_folder(tmp_path / "ours").config
    assert (config.rank_pattern, config.alpha_pattern, config.rslora) == ({}, {}, False)
    base = AutoModelForCausalLM.from_pretrained(bases(kind), dtype=torch.float32)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    torch.testing.assert_close(logits(again, tokens), logits(theirs, tokens), rtol=1e-5, atol=1e-5)
    assert not caplog.records


REFUSED = {
    ("vllm", "dora"): "vLLM refuses DoRA",
    ("vllm", "head saved whole"): "vLLM refuses modules that were trained whole",
    ("vllm", "biases"): "vLLM refuses biases",
    ("vllm", "rows of tokens"): "vLLM refuses rows of tokens",
    ("llama.cpp", "dora"): "llama.cpp refuses DoRA",
    ("llama.cpp", "biases"): "llama.cpp refuses biases",
    ("llama.cpp", "rows of tokens"): "llama.cpp refuses rows of tokens",
    ("llama.cpp", "head saved whole"): "llama.cpp refuses modules",
    ("llama.cpp", "head"): "llama.cpp refuses an adapter of lm_head",
}


@pytest.mark.parametrize(("reader", "kind"), REFUSED)
def test_what_a_reader_refuses_is_said(bases, tmp_path, caplog, reader: str, kind: str):
    by_peft(bases(kind), KINDS[kind]).save_pretrained(tmp_path / "theirs")
    command = [
        "export",
        "--to",
        "adapter",
        "--reader",
        reader,
        "--adapter",
        str(tmp_path / "theirs"),
    ]
    assert cli.main([*command, "--output", str(tmp_path / "ours")]) == 0
    assert REFUSED[reader, kind] in caplog.text


def test_ranks_that_vllm_wants_a_flag_for(bases, tmp_path, caplog):
    by_peft(bases("lora"), {"target_modules": ["q_proj"], "r": 40}).save_pretrained(
        tmp_path / "theirs"
    )
    command = [
        "export",
        "--to",
        "adapter",
        "--reader",
        "vllm",
        "--adapter",
        str(tmp_path / "theirs"),
    ]
    assert cli.main([*command, "--output", str(tmp_path / "ours")]) == 0
    assert "unless it is started with --max-lora-rank 64" in caplog.text
