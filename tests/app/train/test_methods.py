"""What is trained: adapters, everything, or what adapters are compared with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qlora.data import IGNORE, Example
from qlora.evaluation import evaluate
from qlora.train.methods import METHODS, make_method
from qlora.train.metrics import read_rows
from qlora.train.rows import StepRow
from qlora.train.trainer import train
from qlora_kernels.errors import InputError
from qlora_kernels.nn import quantized_layers

FOREIGN = ("prompt", "prefix", "bottleneck")
RATES = {"lora": 3e-3, "full": 1e-3, "prompt": 2e-2, "prefix": 5e-2, "bottleneck": 2e-2}


def format_of(method: str) -> str:
    return "none" if method == "full" else "nf4"


def made(settings, tiny: Path, method: str):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    return model, make_method(model, tokenizer, settings(method=method, format=format_of(method)))


def example(*tokens: int) -> Example:
    return Example(list(tokens), [IGNORE, *tokens[1:]], "text", "here")


def losses(metrics: Path) -> list[float]:
    return [row.loss for row in read_rows(metrics) if isinstance(row, StepRow)]


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_a_line_and_resumes_bit_for_bit(settings, tmp_path: Path, method: str):
    line = tmp_path / "line.txt"
    line.write_text("To be, or not to be, that is the question.\n")
    run = settings(
        data=line,
        method=method,
        format=format_of(method),
        learning_rate=RATES[method],
        steps=6,
        save_every=3,
        validation_split=0,
    )
    done = train(run)
    straight = losses(done.metrics)
    assert straight[-1] < straight[0] - 0.1
    train(replace(run, resume=str(done.folder / "checkpoints" / "checkpoint-000003")))
    assert losses(done.metrics) == straight and len(straight) == 6


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_what_is_loaded(settings, tiny: Path, tmp_path: Path, method: str):
    _, first = made(settings, tiny, method)
    with torch.no_grad():
        for parameter in first.parameters.values():
            parameter.add_(torch.rand_like(parameter))
    first.save(tmp_path / "saved")
    _, second = made(settings, tiny, method)
    second.load(tmp_path / "saved")
    assert first.parameters.keys() == second.parameters.keys()
    assert all(torch.equal(p, second.parameters[n]) for n, p in first.parameters.items())
    assert {p.dtype for p in second.parameters.values()} == {torch.float32}


@pytest.mark.parametrize("method", FOREIGN)
def test_packed_examples_are_judged_as_single_ones(settings, tiny: Path, method: str):
    """Virtual tokens are the same for all of a row."""
    model, chosen = made(settings, tiny, method)
    with torch.no_grad():
        for parameter in chosen.parameters.values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    examples = [example(5, 9, 30, 77), example(8, 100, 3, 40, 41), example(600, 7)]
    packed = evaluate(model, [examples])
    single = evaluate(model, [[example] for example in examples])
    assert packed.loss == pytest.approx(single.loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_virtual_tokens_do_what_pefts_own_wrapper_does(settings, tiny: Path, method: str):
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    model, chosen = made(settings, tiny, method)
    other = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    for name, layer in quantized_layers(model).items():
        other.get_submodule(name).weight.data.copy_(layer.dequantize())
    kind = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[method]
    theirs = get_peft_model(other, kind(task_type="CAUSAL_LM", num_virtual_tokens=chosen.count))
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(chosen.encoder.embedding.weight)
    one = example(5, 9, 30, 77, 12, 200)
    tokens = torch.tensor([one.input_ids])
    with torch.no_grad():
        logits = theirs.eval()(input_ids=tokens).logits[0, -len(one) : -1]
    expected = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
    assert evaluate(model, [[one]]).loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_bottleneck_begins_as_the_base(settings, tiny: Path):
    tokens = torch.arange(4, 24)[None]
    (with_networks, _), (without, _) = (made(settings, tiny, m) for m in ("bottleneck", "lora"))
    with torch.no_grad():
        assert torch.equal(with_networks.eval()(tokens).logits, without.eval()(tokens).logits)


def test_full_fine_tuning_leaves_a_model_that_loads(settings, tiny: Path, tmp_path: Path):
    model, chosen = made(settings, tiny, "full")
    assert len(chosen.parameters) == len(list(model.parameters()))
    chosen.save(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model")
    assert all(
        torch.equal(p, dict(loaded.named_parameters())[n]) for n, p in model.named_parameters()
    )


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_who_lacks_peft_is_told(settings, monkeypatch, method: str):
    monkeypatch.setattr("qlora.train.methods.choose.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"peft should be installed for method {method}"):
        train(settings(method=method))


def test_full_fine_tuning_of_codes_is_refused(settings):
    with pytest.raises(InputError, match="format should be none for method full"):
        train(settings(method="full"))


def test_parameters_that_do_not_fit_are_refused(settings, tiny: Path, tmp_path: Path):
    _, prompt = made(settings, tiny, "prompt")
    prompt.save(tmp_path / "saved")
    _, prefix = made(settings, tiny, "prefix")
    with pytest.raises(InputError, match="should hold"):
        prefix.load(tmp_path / "saved")
    with pytest.raises(InputError, match="should be readable"):
        prefix.load(tmp_path / "nothing")
