"""Adapters without a factor of any linear layer: embeddings, rows, biases or modules alone."""

import copy

import peft
import pytest
import torch

import qlora_kernels as qk
from nn.conftest import exact_logits
from nn.test_adapter_files import trained
from qlora_kernels.nn import QLoRAConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

KINDS = {
    "embedding": {"targets": ["embed_tokens"], "untie": True},
    "rows": {"targets": [], "trainable_tokens": [9, 3]},
    "modules": {"targets": [], "modules_to_save": ["norm"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_saved_and_loaded_by_us_and_by_peft(model, tokens, tmp_path, kind: str):
    base, config = copy.deepcopy(model), QLoRAConfig(format="none", **KINDS[kind])
    tuned = exact_logits(trained(model, config), tokens)
    qk.save_adapter(model, tmp_path)
    again = qk.prepare_model(copy.deepcopy(base), config)
    qk.load_adapter(again, tmp_path)
    assert torch.equal(exact_logits(again, tokens), tuned)
    if kind == "embedding":  # peft is told of a head that is tied no longer
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
        base.config.tie_word_embeddings = False
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(exact_logits(theirs, tokens).float(), tuned.float())


def test_biases_alone(tmp_path):
    config = QLoRAConfig(targets=[], bias="all", format="none")
    base = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))
    model, again = (qk.prepare_model(copy.deepcopy(base), config) for _ in range(2))
    for bias in qk.nn.adapter_parameters(model).values():
        torch.nn.init.normal_(bias)
    qk.save_adapter(model, tmp_path)
    qk.load_adapter(again, tmp_path)
    x = torch.ones(2, 6)
    assert torch.equal(again(x), model(x)) and not torch.equal(model(x), base(x))


@pytest.mark.parametrize("kind", ["embedding", "rows"])
def test_they_are_merged_and_unmerged(model, tokens, kind: str):
    tuned = exact_logits(trained(model, QLoRAConfig(format="none", **KINDS[kind])), tokens)
    with pytest.raises(qk.InputError, match="should be merged, is not"):
        qk.nn.unmerge_adapter(model)
    assert not qk.nn.merge_adapter(model), "no linear layer loses anything"
    torch.testing.assert_close(exact_logits(model, tokens).float(), tuned.float())
    with pytest.raises(qk.InputError, match="should be unmerged"):
        qk.nn.merge_adapter(model)
    qk.nn.unmerge_adapter(model)
    assert torch.equal(exact_logits(model, tokens), tuned)
