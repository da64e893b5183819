"""Which tokens are supervised in texts and completions."""

import copy

import pytest

from qlora.data.encode import IGNORE, encode_completion, encode_text, pad_token, prompt_tokens
from qlora_kernels.errors import InputError


@pytest.fixture
def pads_with_end(tokenizer):
    """A tokenizer whose pad token is its end-of-text token, as SmolLM2's."""
    changed = copy.deepcopy(tokenizer)
    changed.pad_token = changed.eos_token
    return changed


@pytest.fixture
def opens(tokenizer):
    """A tokenizer that puts a begin-of-text token in front by itself, as Llama's and Gemma's."""
    from tokenizers.processors import TemplateProcessing

    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", changed.bos_token_id)]
    )
    return changed


def test_completion_alone_is_supervised_and_ends(tokenizer):
    example = encode_completion(tokenizer, "To be,", " or not", "here")
    prompt, completion = tokenizer("To be,")["input_ids"], tokenizer(" or not")["input_ids"]
    end = tokenizer.eos_token_id
    assert example.input_ids == [*prompt, *completion, end]
    assert example.labels == [IGNORE] * len(prompt) + [*completion, end]
    assert example.num_supervised == len(completion) + 1


def test_end_is_supervised_where_it_is_also_the_pad_token(pads_with_end):
    assert pads_with_end.pad_token_id == pads_with_end.eos_token_id
    assert (
        encode_completion(pads_with_end, "a", "b", "here").labels[-1] == pads_with_end.eos_token_id
    )
    assert encode_text(pads_with_end, "a b", 9, "here")[0].labels[-1] == pads_with_end.eos_token_id


def test_an_end_that_the_text_spells_out_is_not_doubled(tokenizer):
    ids = encode_completion(tokenizer, "a", "b<|im_end|>", "here").input_ids
    assert ids.count(tokenizer.eos_token_id) == 1


def test_opening_token_stands_once(opens):
    begin = opens.bos_token_id
    for prompt in ("To be", "<|im_start|>To be"):
        assert encode_completion(opens, prompt, " or", "here").input_ids.count(begin) == 1
    (piece,) = encode_text(opens, "To be", 100, "here")
    assert piece.input_ids[0] == begin and piece.input_ids.count(begin) == 1


def test_generation_sees_the_same_prompt_tokens(opens):
    example = encode_completion(opens, "To be,", " or not", "here")
    prompt = prompt_tokens(opens, "To be,")
    assert example.input_ids[: len(prompt)] == prompt
    assert (
        example.labels[: len(prompt) + 1]
        == [IGNORE] * len(prompt) + example.labels[len(prompt) :][:1]
    )


def test_text_is_cut_into_pieces_that_lose_nothing(tokenizer):
    text = "Now is the winter of our discontent made glorious summer by this sun of York"
    whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    pieces = encode_text(tokenizer, text, 5, "here")
    assert [token for piece in pieces for token in piece.input_ids] == whole[
        : sum(map(len, pieces))
    ]
    assert len(whole) - sum(map(len, pieces)) <= 1
    for piece in pieces:
        assert 2 <= len(piece) <= 5 and piece.labels == [IGNORE, *piece.input_ids[1:]]


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(InputError, match="should have an end-of-text token, had none"):
        encode_completion(endless, "a", "b", "here")


def test_pad_token(tokenizer):
    assert pad_token(tokenizer) == tokenizer.pad_token_id
    padless = copy.deepcopy(tokenizer)
    padless.pad_token = None
    assert pad_token(padless) == tokenizer.eos_token_id
