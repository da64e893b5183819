"""Settings of single layers and tokens: what a run says is what its adapter has."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from qlora import cli
from qlora.data import IGNORE, Example
from qlora.evaluate import EvaluateSettings, evaluate_file
from qlora.evaluation import evaluate
from qlora.objective import loss_sum, supervise
from qlora.settings import from_sources, to_yaml
from qlora.train.metrics import read_rows
from qlora.train.rows import StepRow
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import read_adapter_folder

YAML = """
model: {tiny}
data: {sonnets}
output: {output}
sequence_length: 32
batch_size: 2
steps: 4
save_every: 2
rank: 4
learning_rate: 5e-4
patience: 0
format_pattern: {{down_proj: int8, "layers.0.self_attn.*": none}}
rank_pattern: {{q_proj: 2, embed_tokens: 3}}
alpha_pattern: {{up_proj: 5}}
targets: [q_proj, up_proj, embed_tokens, lm_head]
exclude: [layers.1.self_attn.q_proj]
modules_to_save: [model.norm]
bias: lora_only
untie: true
"""


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> TrainSettings:
    """As a file says it."""
    file = tmp_path / "run.yaml"
    places = {"tiny": tiny, "sonnets": tiny.parent / "sonnets.txt", "output": tmp_path / "run"}
    file.write_text(YAML.format(**places))
    return from_sources(TrainSettings, file, {})


def losses(metrics: Path) -> list[float]:
    return [row.loss for row in read_rows(metrics) if isinstance(row, StepRow)]


def test_a_file_says_rank_alpha_format_and_targets(run, tmp_path: Path):
    done = train(run)
    folder = read_adapter_folder(done.adapter)
    names = {*folder.layers, *folder.embeddings}
    assert {name.rpartition(".")[2] for name in names} == {*run.targets}
    assert "model.layers.1.self_attn.q_proj" not in names
    assert folder.layers["model.layers.0.self_attn.q_proj"].rank == 2
    assert folder.embeddings["model.embed_tokens"].rank == 3
    assert folder.layers["model.layers.2.mlp.up_proj"].scaling == 5 / 4
    assert list(folder.saved_modules) == ["model.norm.weight"]
    straight = losses(done.metrics)
    train(replace(run, resume=str(done.folder / "checkpoints" / "checkpoint-000002")))
    assert losses(done.metrics) == straight and len(straight) == 4
    how = {"data": run.data, "sequence_length": 32, "format_pattern": run.format_pattern}
    found = evaluate_file(EvaluateSettings(run.model, adapter=done.adapter, **how))
    plain = evaluate_file(EvaluateSettings(run.model, **how))
    assert found["base"] == plain["base"], "without the modules that were trained whole"
    assert found["adapter"].loss < found["base"].loss


def test_it_is_written_and_read_again(run, tmp_path: Path):
    (tmp_path / "again.yaml").write_text(to_yaml(run))
    assert from_sources(TrainSettings, tmp_path / "again.yaml", {}) == run


def test_flags_say_the_same(tiny: Path, tmp_path: Path, capsys):
    words = ["--model", tiny, "--data", tiny.parent / "sonnets.txt", "--output", tmp_path / "run"]
    words += ["--sequence-length", 32, "--batch-size", 2, "--steps", 2, "--rank", 4]
    words += ["--rank-pattern", "q_proj=2", "v_proj=3", "--format-pattern", "mlp.*=int8"]
    words += ["--trainable-tokens", 700, "the"]
    assert cli.main(["train", *map(str, words)]) == 0
    assert "beside them model.embed_tokens.token_rows.rows" in capsys.readouterr().out
    folder = read_adapter_folder(tmp_path / "run/adapter")
    assert folder.layers["model.layers.3.self_attn.v_proj"].rank == 3
    tokenizer_id = qk_token(tiny, "the")
    assert folder.token_rows["model.embed_tokens"].indices == tuple(sorted([700, tokenizer_id]))
    generate = ["generate", "--model", tiny, "--adapter", tmp_path / "run/adapter", "--prompt", "O"]
    generate += ["--format-pattern", "mlp.*=int8", "--max-new-tokens", 3]
    assert cli.main(list(map(str, generate))) == 0


def qk_token(tiny: Path, text: str) -> int:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny).get_vocab()[text]


REFUSED = {
    "rank_pattern should match a linear layer, 'q_prj' matches none; nearest: q_proj": {
        "rank_pattern": {"q_prj": 2}
    },
    "alpha_pattern should match a linear layer, 'wq' matches none": {"alpha_pattern": {"wq": 2}},
    "format should match a linear layer, 'dwn_proj' matches none; nearest: down_proj": {
        "format_pattern": {"dwn_proj": "int8"}
    },
    "exclude should match a linear layer, 'k_prj' matches none": {"exclude": ("k_prj",)},
    "a pattern should be a regular expression, was '('": {"rank_pattern": {"(": 2}},
    "q_proj should be a whole number above 0, was 0": {"rank_pattern": {"q_proj": 0}},
    "tokens of model.embed_tokens should be below 1024, has 1024": {"trainable_tokens": (1024,)},
    "trainable_tokens should be tokens of the model, '<tool>' is none": {
        "trainable_tokens": ("<tool>",)
    },
    "lm_head should have its own weight": {"targets": ("lm_head",)},
    "modules_to_save should match a module, 'nrm' matches none": {"modules_to_save": ("nrm",)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_matches_nothing_is_told_in_one_line(settings, tmp_path: Path, message: str):
    with pytest.raises(InputError) as refusal:
        train(settings(**REFUSED[message]))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


CONFIGS = {
    "adapted": qk.QLoRAConfig(targets=["lm_head", "embed_tokens"], untie=True, rank=4),
    "quantized": qk.QLoRAConfig(quantize_head=True, untie=True, rank=4),
    "rows of tokens": qk.QLoRAConfig(trainable_tokens=[9, 30], rank=4),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_loss_through_such_a_head_is_the_models_own(tiny: Path, kind: str):
    """And its gradients, although the logits are made in chunks and made again in backward."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    qk.prepare_model(model, CONFIGS[kind])
    parameters = qk.nn.adapter_parameters(model)
    for name, parameter in parameters.items():
        if "lora" in name:  # rows of tokens stay as large as their neighbours
            torch.nn.init.normal_(parameter, std=0.05)
    tokens = [5, 9, 30, 77, 12, 200]
    row = [Example(tokens, [IGNORE, *tokens[1:]], "text", "here")]
    loss = loss_sum(model, supervise([row], pad_id=0))
    loss.backward()
    ours = {name: parameter.grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    logits = model(torch.tensor([tokens])).logits[0, :-1]
    expected = functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum")
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in parameters.items():  # rounding differs by some 2e-6, by elements more
        assert (ours[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name
    assert evaluate(model, [row]).loss == pytest.approx(expected.item() / 5, rel=1e-5)
