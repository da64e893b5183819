"""The assistant's turns, found through chat templates that behave and that do not."""

import copy

import pytest

from qlora.data.chat import encode_chat
from qlora.data.encode import IGNORE
from qlora_kernels.errors import InputError

TURNS = [
    {"role": "user", "content": "Who goes there?"},
    {"role": "assistant", "content": "A friend."},
    {"role": "user", "content": "To whom?"},
    {"role": "assistant", "content": "To this land."},
]

WITH_SYSTEM_PROMPT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
)
FORGETS = (
    "{% for m in messages %}{{ m['content'] if loop.last or m['role'] == 'user' else '...' }}"
    "<|im_end|>{% endfor %}"
)
WITHOUT_END = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


def supervised(tokenizer, example) -> list[str]:
    """The supervised text, one string per run of supervised tokens."""
    runs, previous = [], False
    for token, label in zip(example.input_ids, example.labels, strict=True):
        if label != IGNORE:
            assert label == token
            runs = runs if previous else [*runs, []]
            runs[-1].append(token)
        previous = label != IGNORE
    return [tokenizer.decode(run) for run in runs]


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_every_turn_of_the_assistant_is_supervised_with_its_end(tokenizer):
    example = encode_chat(tokenizer, TURNS, "here")
    assert supervised(tokenizer, example) == ["A friend.<|im_end|>", "To this land.<|im_end|>"]
    text = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert tokenizer.decode(example.input_ids) == text


def test_a_system_prompt_that_the_template_inserts_carries_no_loss(tokenizer):
    changed = with_template(tokenizer, WITH_SYSTEM_PROMPT + tokenizer.chat_template)
    example = encode_chat(changed, TURNS, "here")
    assert tokenizer.decode(example.input_ids).startswith("<|im_start|>system\nBe brief.")
    assert supervised(changed, example) == ["A friend.<|im_end|>", "To this land.<|im_end|>"]


def test_without_an_end_token_the_turn_goes_on_to_the_next(tokenizer):
    changed = with_template(tokenizer, WITHOUT_END)
    example = encode_chat(changed, TURNS[:2], "here")
    assert supervised(changed, example) == ["assistant: A friend.\n"]


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    changed = with_template(tokenizer, FORGETS)
    message = r"^d.jsonl line 3: the chat template should write message 2 the same whether or not"
    with pytest.raises(InputError, match=message):
        encode_chat(changed, TURNS, "d.jsonl line 3")


def test_a_template_that_refuses_the_messages_is_quoted(tokenizer):
    changed = with_template(tokenizer, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(
        InputError, match=r"here: the chat template refuses the messages: roles must"
    ):
        encode_chat(changed, TURNS, "here")


def test_a_conversation_begins_with_somebody_else(tokenizer):
    message = "here: a conversation should begin with another role than the assistant's"
    with pytest.raises(InputError, match=message):
        encode_chat(tokenizer, TURNS[1:], "here")


def test_messages_need_a_tokenizer_that_knows_where_tokens_stand(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(InputError, match="here: `messages` need a fast tokenizer, Tokenizers"):
        encode_chat(tokenizer, TURNS, "here")


def test_messages_need_a_template(tokenizer):
    with pytest.raises(InputError, match=r"here: `messages` need a tokenizer with a chat template"):
        encode_chat(with_template(tokenizer, None), TURNS, "here")
