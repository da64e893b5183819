"""`load_tuned`: every kind of adapter that peft writes answers here as it does there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qlora_kernels as qk
from app.export.conftest import KINDS, by_peft, logits
from qlora import cli
from qlora.models import load_prepared, load_tuned
from qlora_kernels.nn import adapter_parameters

PLAIN = qk.QLoRAConfig(format="none")
MORE = {
    "embedding saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "a norm and rows": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["norm"],
        "trainable_token_indices": [700, 3],
    },
}


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_it_answers_as_peft_does(bases, tokens, tmp_path: Path, kind: str):
    theirs = by_peft(bases(kind), {**KINDS, **MORE}[kind])
    theirs.save_pretrained(tmp_path)
    model, _ = load_tuned(bases(kind), tmp_path, PLAIN, "float32")
    answers = logits(model, tokens)
    torch.testing.assert_close(answers.float(), logits(theirs, tokens).float())
    base, _ = load_prepared(bases(kind), [tmp_path], PLAIN, "float32")
    plain, _ = load_tuned(bases(kind), None, PLAIN, "float32")
    assert torch.equal(logits(base, tokens), logits(plain, tokens)), "until it is loaded"
    assert (answers - logits(plain, tokens)).abs().max() > 1e-3


def test_generate_takes_modules_that_were_trained_whole(bases, tmp_path: Path, capsys):
    kind = "head saved whole"
    by_peft(bases(kind), KINDS[kind]).save_pretrained(tmp_path)
    words = ["generate", "--model", bases(kind), "--adapter", tmp_path, "--prompt", "To be"]
    assert cli.main(list(map(str, [*words, "--max-new-tokens", 4]))) == 0
    assert capsys.readouterr().out.strip()


def test_what_is_loaded_can_be_trained_on(bases, tokens, tmp_path: Path):
    kind = "head saved whole"
    by_peft(bases(kind), KINDS[kind]).save_pretrained(tmp_path)
    model, _ = load_tuned(bases(kind), tmp_path, PLAIN, "float32")
    assert "lm_head.weight" in adapter_parameters(model)


def test_a_foreign_adapter_is_refused(bases, tmp_path: Path):
    by_peft(bases("lora"), {"target_modules": ["q_proj"]}).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({n.replace("q_proj", "q_prj"): t for n, t in load_file(file).items()}, file)
    with pytest.raises(qk.InputError, match="q_prj should be a layer of the model"):
        load_tuned(bases("lora"), tmp_path, PLAIN)
