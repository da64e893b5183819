"""`qlora generate` says what the model says, with the tokens that training used."""

import copy
import io
import json

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

import qlora_kernels as qk
from qlora import cli, decoding
from qlora.data.chat import encode_chat, reply_tokens
from qlora.generate import GenerateSettings, complete
from qlora.models import load_model, load_tuned
from qlora_kernels.errors import InputError


@pytest.fixture
def generate(tiny, capsys):
    """Runs the command on the tiny model; returns (exit code, stdout, stderr)."""

    def run(*words: str):
        code = cli.main(["generate", "--model", str(tiny), "--dtype", "float32", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def adapter(tiny, tmp_path):
    """A folder with an adapter that changes what the model says."""
    torch.manual_seed(0)
    model = qk.prepare_model(load_model(tiny, "float32")[0], qk.QLoRAConfig(rank=4))
    for name, parameter in qk.nn.adapter_parameters(model).items():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.5)
    qk.save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def greedy(model, tokens: list[int], count: int) -> list[int]:
    """The likeliest token, again and again, without a cache."""
    for _ in range(count):
        logits = model(torch.tensor([tokens]), use_cache=False).logits
        tokens = [*tokens, int(logits[0, -1].argmax())]
    return tokens[-count:]


@pytest.mark.parametrize("format", ["nf4", "fp4", "int8", "none"])
def test_json_holds_the_greedy_completion(generate, tiny, tokenizer, format):
    words = ["--prompt", "ROMEO.", "--max-new-tokens", "8", "--format", format, "--json"]
    code, out, _ = generate(*words)
    said = json.loads(out)
    model, _ = load_tuned(tiny, None, qk.QLoRAConfig(format=format), "float32")
    expected = greedy(model, tokenizer("ROMEO.")["input_ids"], 8)
    assert code == 0 and said["completion"] == tokenizer.decode(expected)
    assert said.keys() == {"prompt", "completion", "tokens", "seconds"}
    assert (said["prompt"], said["tokens"]) == ("ROMEO.", 8) and said["seconds"] > 0


def test_the_text_is_streamed(generate):
    words = ("--prompt", "ROMEO.", "--max-new-tokens", "8")
    streamed = generate(*words)[1]
    assert streamed == json.loads(generate(*words, "--json")[1])["completion"] + "\n"


def test_the_adapter_is_used(generate, tiny, adapter, tokenizer):
    words = ("--prompt", "ROMEO.", "--max-new-tokens", "8", "--json")
    base, tuned = (
        json.loads(generate(*words, *more)[1])["completion"]
        for more in ((), ("--adapter", str(adapter)))
    )
    model, _ = load_tuned(tiny, adapter, qk.QLoRAConfig(), "float32")
    expected = greedy(model, tokenizer("ROMEO.")["input_ids"], 8)
    assert tuned == tokenizer.decode(expected, skip_special_tokens=True) != base


def test_the_prompt_may_come_from_standard_input(generate, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("ROMEO."))
    out = generate("--prompt", "-", "--max-new-tokens", "2", "--json")[1]
    assert json.loads(out)["prompt"] == "ROMEO."


def test_sampling_follows_the_seed(generate):
    words = ("--prompt", "ROMEO.", "--max-new-tokens", "12", "--temperature", "1", "--seed")
    first, again, other = (generate(*words, seed)[1] for seed in "112")
    assert first == again != other


def test_a_chat_prompt_has_the_tokens_of_training(tokenizer):
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    prompt = reply_tokens(tokenizer, "Who?")
    example = encode_chat(tokenizer, talk, "here")
    assert example.input_ids[: len(prompt)] == prompt
    assert set(example.labels[: len(prompt)]) == {-100} and example.labels[len(prompt)] != -100


def test_an_answer_ends_with_the_end_of_text(model, tokenizer, tiny):
    """Every end counts: the tokenizer's, and those of the model's generation_config."""
    settings = GenerateSettings(tiny, "ROMEO.", max_new_tokens=8)
    whole = complete(model, tokenizer, "ROMEO.", settings)
    third = greedy(model, tokenizer("ROMEO.")["input_ids"], 3)[-1]
    model.generation_config.eos_token_id = [third, 1]
    ended = complete(model, tokenizer, "ROMEO.", settings)
    assert (whole.tokens, ended.tokens) == (8, 3)


BAD_WORDS = {
    "--prompt x --max-new-tokens 0": "generate: max_new_tokens should be at least 1, was 0",
    "--prompt x --temperature -1": "generate: temperature should be 0 or more, was -1.0",
    "--prompt x --top-p 0": "generate: top_p should be above 0 and at most 1, was 0.0",
    "--prompt x --max-new-tokens 600": "should fit the 512 positions of the model, were 1 + 600",
    "--prompt=": "generate: prompt should have at least one token, was empty",
    "--prompt x --adapter absent": "adapter: absent/adapter_config.json should be readable JSON",
    "--max-new-tokens 3": "settings: --prompt should be given (or `prompt:` in the file of",
}


@pytest.mark.parametrize(("words", "message"), BAD_WORDS.items())
def test_bad_input_is_one_line_and_exit_code_2(generate, words, message):
    code, out, err = generate(*words.split())
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


def test_a_model_without_an_end_is_refused(model, tokenizer, tiny):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = model.generation_config.eos_token_id = None
    with pytest.raises(InputError, match="should have an end-of-text token, has none"):
        complete(model, endless, "x", GenerateSettings(tiny, "x"))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_our_loop_makes_the_tokens_of_transformers(
    model, tokenizer, tiny, monkeypatch, temperature
):
    """With what the model's own generation_config asks for, too."""
    settings = GenerateSettings(tiny, "x", None, max_new_tokens=24, temperature=temperature, seed=3)
    model.generation_config.repetition_penalty = 1.3
    ours = complete(model, tokenizer, "ROMEO.", settings)
    monkeypatch.setattr(decoding, "decoder", lambda *_: None)
    theirs = complete(model, tokenizer, "ROMEO.", settings)
    assert ours.completion == theirs.completion and ours.tokens == theirs.tokens == 24


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64}


def test_a_model_whose_tokens_tell_positions_gets_those_of_transformers():
    """RoBERTa would number each token as if it stood first."""
    torch.manual_seed(0)
    roberta = RobertaForCausalLM(RobertaConfig(**SMALL, is_decoder=True)).eval()
    for parameter in roberta.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.arange(3, 12)[None]
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    assert decoding.decoder(roberta) is not None
    ours, theirs = (
        roberta.generate(x, attention_mask=torch.ones_like(x), custom_generate=loop, **options)
        for loop in (decoding.decoder(roberta), None)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "made",
    [
        lambda: MambaForCausalLM(
            MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=16, state_size=4)
        ),
        lambda: MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=1, vocab_size=64)),
        lambda: Phi3ForCausalLM(Phi3Config(**SMALL, num_key_value_heads=4, pad_token_id=0)),
    ],
    ids=["keeps a state", "asks for no cache", "prepares its inputs"],
)
def test_a_model_of_other_ways_keeps_the_loop_of_transformers(made):
    assert decoding.decoder(made()) is None


@pytest.mark.parametrize(
    "asked", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}]
)
def test_a_model_that_asks_for_several_answers_gets_them_from_transformers(model, asked):
    assert decoding.decoder(model) is not None
    model.generation_config.update(**asked)
    assert decoding.decoder(model) is None


@pytest.mark.parametrize(
    ("asked", "was"),
    [
        ({"num_beams": 3}, "asks for beam_search, 1 of them"),
        ({"num_return_sequences": 2, "do_sample": True}, "asks for sample, 2 of them"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "was 1 with padding"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 1]])}, "was 1 with padding"),
        ({"inputs": torch.arange(8).view(2, 4) + 4}, "was 2$"),
    ],
)
def test_our_loop_refuses_what_it_would_leave_out(model, asked, was):
    options = {"inputs": torch.arange(4)[None] + 4, "max_new_tokens": 2} | asked
    with pytest.raises(InputError, match=was):
        model.generate(custom_generate=decoding.decoder(model), **options)


def test_a_model_saved_without_a_cache_generates(model, tokenizer, tiny):
    """As trainers with checkpointing leave it."""
    settings = GenerateSettings(tiny, "x", None, max_new_tokens=8)
    cached = complete(model, tokenizer, "ROMEO.", settings)
    model.generation_config.use_cache = False
    assert complete(model, tokenizer, "ROMEO.", settings).completion == cached.completion
