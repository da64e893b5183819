"""A quantized folder is what quantizing on the fly makes of the model, and says what that cost."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

import qlora_kernels as qk
from qlora import cli
from qlora.models import load_model
from qlora_kernels.nn import quantized_layers

FORMATS = {
    "nf4": {},
    "fp4": {"format": "fp4", "double_quant": False},
    "int8": {"format": "int8", "block_size": 128},
    "nf4-tuned": {"format": "nf4-tuned", "block_size": 32},
    "searched": {"scale_search": True},
}
TOKENS = torch.arange(40)[None]


def words(config: dict[str, object]) -> list[str]:
    """The options of the command for a config."""
    flags = []
    for name, value in config.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def quantize(model: Path, output: Path, *options: str) -> int:
    return cli.main(["quantize", str(model), "-o", str(output), *options])


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(TOKENS).logits


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory) -> Path:
    """With Conv1D layers, stored [in, out], biases and a tied head; in several shards."""
    folder = tmp_path_factory.mktemp("gpt2")
    tiny = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size="100KB")
    for file in tiny.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMATS)
def test_answers_are_those_of_quantizing_on_the_fly(tiny, tmp_path, name, dtype):
    assert quantize(tiny, tmp_path / "out", *words(FORMATS[name])) == 0
    config = qk.QLoRAConfig(targets=(), **FORMATS[name])
    stored = qk.prepare_model(load_model(tmp_path / "out", dtype)[0], config)
    on_the_fly = qk.prepare_model(load_model(tiny, dtype)[0], config)
    assert torch.equal(logits(stored), logits(on_the_fly))
    theirs = on_the_fly.state_dict()
    assert stored.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in stored.state_dict().items())
    assert stored.lm_head.weight is stored.model.embed_tokens.weight
    assert stored.generation_config.to_dict() == on_the_fly.generation_config.to_dict()


def test_layers_stored_transposed_and_shards(gpt2, tmp_path):
    assert quantize(gpt2, tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    config = qk.QLoRAConfig(targets=())
    stored = qk.prepare_model(load_model(tmp_path / "out")[0], config)
    assert torch.equal(logits(stored), logits(qk.prepare_model(load_model(gpt2)[0], config)))


def test_adapters_train_on_stored_codes(tiny, tmp_path):
    quantize(tiny, tmp_path / "out")
    config = qk.QLoRAConfig(rank=4, targets=("q_proj",), dora=True, init="kaiming-uniform")
    losses = []
    for folder in (tiny, tmp_path / "out"):
        model, _ = load_model(folder)
        torch.manual_seed(1)
        model = qk.prepare_model(model, config).train()
        adapters = qk.nn.adapter_parameters(model)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == adapters.keys()
        optimizer = torch.optim.AdamW(adapters.values(), lr=1e-2)
        for _ in range(3):
            loss = model(TOKENS, labels=TOKENS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[:3] == losses[3:] and losses[2] < losses[0]


def test_the_folder_holds_codes_and_a_report(tiny, tmp_path, capsys):
    assert quantize(tiny, tmp_path / "out", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "report.json").read_text())
    dense, stored = (load_file(f / "model.safetensors") for f in (tiny, tmp_path / "out"))
    layers = quantized_layers(qk.prepare_model(load_model(tiny)[0], qk.QLoRAConfig()))
    assert printed["layers"].keys() == layers.keys()
    for name, loss in printed["layers"].items():
        q = qk.QuantizedTensor.from_state_dict(stored, f"{name}.weight")
        assert loss["error"] == qk.quantization_error(dense.pop(f"{name}.weight"), q)
        assert loss["quantized_bytes"] == q.nbytes
    assert all(torch.equal(stored[name], tensor) for name, tensor in dense.items())
    errors = [loss["error"] for loss in printed["layers"].values()]
    assert errors == sorted(errors, reverse=True)
    assert printed["mean_error"] == pytest.approx(sum(errors) / len(errors))


@torch.no_grad()
def with_outliers(tiny: Path, folder: Path) -> Path:
    """The same function with a few large inputs in each layer, which real models have."""
    model, tokenizer = load_model(tiny, "float32")
    for block in model.model.layers:
        attention, feed_forward = block.self_attn, block.mlp
        for norm, readers in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (feed_forward.gate_proj, feed_forward.up_proj)),
        ):
            norm.weight[::16] *= 16
            for reader in readers:
                reader.weight[:, ::16] /= 16
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_calibration_brings_the_answers_nearer(tiny, tmp_path):
    model = with_outliers(tiny, tmp_path / "model")
    text = Path(__file__).parents[2] / "fixtures" / "sonnets.txt"
    dense = logits(load_model(model, "float32")[0])
    far, reports = [], []
    for options in ([], ["--calibrate", str(text)]):
        out = tmp_path / str(len(options))
        assert quantize(model, out, "--format", "nf4-tuned", *options) == 0
        far.append((logits(load_model(out, "float32")[0]) - dense).square().mean())
        reports.append(json.loads((out / "report.json").read_text()))
    assert far[1] < 0.9 * far[0]
    assert reports[1]["mean_error"] > reports[0]["mean_error"]
    assert reports[1]["quantized_bytes"] == reports[0]["quantized_bytes"]
    assert [report["calibrate"] for report in reports] == [None, str(text)]


def test_the_table_is_worst_first_and_then_the_mean(tiny, tmp_path, capsys):
    quantize(tiny, tmp_path / "out", "--format", "int8")
    title, *rows, mean, _, written = capsys.readouterr().out.splitlines()
    shares = [float(row.split()[1].removesuffix("%")) for row in rows]
    assert title.split() == ["layer", "relative", "error"]
    assert shares == sorted(shares, reverse=True) and max(shares) < 1
    assert mean.startswith("mean ") and written == f"written: {tmp_path / 'out'}"


def test_commands_take_the_folder(tiny, tmp_path, capsys):
    quantize(tiny, tmp_path / "out")
    data = tmp_path / "data.txt"
    data.write_text("To be, or not to be: that is the question.\n" * 20)
    capsys.readouterr()
    told = []
    for model, run in ((tiny, "fly"), (tmp_path / "out", "stored")):
        base = ["--model", str(model)]
        length = ["--data", str(data), "--sequence-length", "64"]
        output = tmp_path / run
        train = ["train", *base, *length, "--validation-split", "0", "--steps", "2"]
        assert cli.main([*train, "--output", str(output)]) == 0
        capsys.readouterr()
        tuned = ["--adapter", str(output / "adapter"), "--json"]
        assert cli.main(["evaluate", *base, *length, *tuned]) == 0
        results = json.loads(capsys.readouterr().out)["results"]
        prompt = ["--prompt", "KING", "--max-new-tokens", "8"]
        assert cli.main(["generate", *base, *tuned, *prompt]) == 0
        told.append((results, json.loads(capsys.readouterr().out)["completion"]))
    assert told[0] == told[1]
