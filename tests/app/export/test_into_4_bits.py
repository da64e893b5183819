"""Merged into 4 bits: a checkpoint that bitsandbytes loads, and what it cost."""

import json
from pathlib import Path

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from app.export.conftest import KINDS, TINY, by_peft
from qlora import cli
from qlora_kernels.nn import QLoRAConfig, merge_adapter


def export(*words: object) -> int:
    return cli.main(["export", "--to", "4bit", "--model", str(TINY), *map(str, words)])


@torch.no_grad()
def answers(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens).logits.float()


def ours(**config: object) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    return qk.prepare_model(model, QLoRAConfig(targets=(), **config))


def loaded_in_4_bits(folder: Path) -> nn.Module:
    """What bitsandbytes makes of it, computing in float32 on every machine.

    Where a processor has AVX-512 BF16 it would pack the weights anew and multiply in bf16.
    """
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    dense = [m for m in theirs.modules() if isinstance(m, nn.Linear)]
    in_4_bits = [m for m in dense if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(in_4_bits) == 4 * 7 and len(dense) == 4 * 7 + 1
    for layer in in_4_bits:
        layer.support_avx512bf16_for_cpu = False
    return theirs


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("format", ["nf4", "fp4"])
def test_bitsandbytes_loads_the_base(tokens, tmp_path: Path, format: str, double_quant: bool):
    flag = "--double-quant" if double_quant else "--no-double-quant"
    words = ["--output", tmp_path / "q", "--format", format, flag, "--dtype", "float32"]
    assert export(*words) == 0
    theirs = loaded_in_4_bits(tmp_path / "q")
    expected = answers(ours(format=format, double_quant=double_quant), tokens)
    torch.testing.assert_close(answers(theirs, tokens), expected, rtol=1e-3, atol=1e-3)


def test_bitsandbytes_loads_the_merged_model_and_the_loss_is_told(tokens, tmp_path: Path, capsys):
    by_peft(TINY, KINDS["lora"] | {"lora_alpha": 64}).save_pretrained(tmp_path / "adapter")
    words = ["--adapter", tmp_path / "adapter", "--output", tmp_path / "q", "--dtype", "float32"]
    assert export(*words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    model = ours()
    qk.load_adapter(model, tmp_path / "adapter")
    losses = merge_adapter(model)
    for name, loss in report["layers"].items():
        assert loss == pytest.approx(
            {"retained": losses[name].retained, "noise": losses[name].noise}
        )
    assert len(report["layers"]) == 4 * 7 and 0.9 < report["retained"] < 1.1
    theirs = loaded_in_4_bits(tmp_path / "q")
    torch.testing.assert_close(
        answers(theirs, tokens), answers(model, tokens), rtol=1e-3, atol=1e-3
    )


def test_an_update_that_would_drown_is_refused_and_can_be_forced(tmp_path: Path, capsys):
    by_peft(TINY, KINDS["rslora"] | {"lora_alpha": 0.05}).save_pretrained(tmp_path / "adapter")
    words = ["--adapter", tmp_path / "adapter", "--output", tmp_path / "q"]
    assert export(*words) == 2
    message = capsys.readouterr().err
    assert "at least 90% of the update should survive 4 bits" in message
    assert not (tmp_path / "q").exists()
    assert export(*words, "--force") == 0
    assert "of the update as a whole" in capsys.readouterr().out
