"""Data files: the three forms of a row, and one clear line for each way a file can be wrong."""

import json
import logging

import pytest

from qlora.data import IGNORE, read_examples
from qlora_kernels.errors import InputError


@pytest.fixture
def write(tmp_path):
    """Writes a data file from text, bytes or rows; returns its path."""

    def writer(content, name="d.jsonl"):
        if isinstance(content, list):
            content = "\n".join(json.dumps(row) for row in content)
        if isinstance(content, str):
            content = content.encode()
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return writer


def test_the_three_forms_in_file_order(write, tokenizer):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = [{"text": "To be"}, {"prompt": "a", "completion": "b"}, {"messages": talk}]
    examples = read_examples(write(rows), tokenizer, 64)
    assert [example.kind for example in examples] == ["text", "completion", "chat"]
    assert [example.source.split()[-1] for example in examples] == ["1", "2", "3"]
    assert all(e.labels[0] == IGNORE and len(e.labels) == len(e.input_ids) for e in examples)


def test_a_text_file_is_one_document(write, tokenizer):
    text = "ROMEO.\nBut soft, what light\n\nthrough yonder window breaks?\n" * 3
    examples = read_examples(write(text, "play.txt"), tokenizer, 16)
    ids = [token for example in examples for token in example.input_ids]
    assert tokenizer.decode(ids) == text + tokenizer.eos_token
    assert {len(example) for example in examples[:-1]} == {16}


def test_blank_lines_byte_order_mark_and_line_separators_are_no_trouble(write, tokenizer):
    content = '\ufeff{"text": "one\u2028two"}\r\n\r\n{"text": "three"}\n'
    examples = read_examples(write(content), tokenizer, 64)
    assert [example.source.split()[-1] for example in examples] == ["1", "3"]
    assert tokenizer.decode(examples[0].input_ids) == "one\u2028two<|im_end|>"


def test_long_examples_are_cut_and_counted(write, tokenizer, caplog):
    rows = [{"prompt": "a", "completion": "word " * 50}, {"prompt": "a", "completion": "b"}]
    with caplog.at_level(logging.WARNING):
        long, short = read_examples(write(rows), tokenizer, 10)
    assert len(long) == 10 and long.labels[-1] != tokenizer.eos_token_id
    assert short.labels[-1] == tokenizer.eos_token_id
    assert "d.jsonl: cut at 10 tokens: 1 examples" in caplog.text


def test_examples_without_a_supervised_token_can_be_skipped(write, tokenizer, caplog):
    rows = [{"prompt": "word " * 50, "completion": "x"}, {"prompt": "a", "completion": "b"}]
    with caplog.at_level(logging.WARNING):
        examples = read_examples(write(rows), tokenizer, 10, skip_unsupervised=True)
    assert [example.source.split()[-1] for example in examples] == ["2"]
    assert "d.jsonl: skipped, with nothing to learn: 1 examples" in caplog.text


BAD_ROWS = {
    "{": r"d.jsonl line 1: should be one JSON object, was not JSON: Expecting property name",
    '{"text": "a"}\n[1]': r"d.jsonl line 2: should be one JSON object, was list",
    "[" * 100_000: r"d.jsonl line 1: should be one JSON object, has maximum recursion depth",
    '{"text": ' + "1" * 5000 + "}": r"d.jsonl line 1: should be one JSON object, has Exceeds",
    '{"txt": "a"}': r"d.jsonl line 1: unknown key 'txt'; did you mean 'text'\?",
    '{"label": 3}': r"line 1: unknown key 'label' \(known: text, prompt, completion, messages\)",
    '{"prompt": "a"}': r"line 1: should have `text`, or `prompt` and .*, had prompt",
    '{"text": "a", "prompt": "a"}': r"line 1: should have `text`, or .*, had text, prompt",
    "{}": r"line 1: should have `text`, or .*, had no key",
    '{"text": 3}': r"line 1: text should be text, was int",
    '{"prompt": "a", "completion": null}': r"line 1: completion should be text, was NoneType",
    '{"text": "\\ud800"}': r"line 1: text should be Unicode text, had half a surrogate pair",
    '{"messages": "hi"}': r"line 1: messages should be a list, was str",
    '{"messages": ["hi"]}': r"line 1: message 1 should be an object, was str",
    '{"messages": [{"role": "user"}]}': r"line 1: content of message 1 should be text, was NoneTy",
    '{"messages": [{"rol": "user"}]}': r"line 1: message 1: unknown key 'rol'; did you mean 'role'",
    '{"messages": []}': r"line 1: messages should hold at least one message, holds none",
    '{"messages": [{"role": "user", "content": "a"}]}': r"line 1: should have at least one token",
    '{"text": ""}': r"line 1: should have at least one token to learn, has none",
    "": r"d.jsonl: should hold at least one example, holds none",
}


@pytest.mark.parametrize(("content", "message"), BAD_ROWS.items(), ids=range(len(BAD_ROWS)))
def test_bad_rows_are_named(write, tokenizer, content, message):
    with pytest.raises(InputError, match=message):
        read_examples(write(content), tokenizer, 64)


def test_bytes_that_are_not_text(write, tokenizer):
    with pytest.raises(InputError, match=r"d.jsonl line 2: should be UTF-8 text, byte 2 is not"):
        read_examples(write(b'{"text": "a"}\n{"\xff'), tokenizer, 64)


def test_completion_cut_off_entirely(write, tokenizer):
    row = {"prompt": "word " * 50, "completion": "x"}
    message = r"line 1: should have a token to learn within 10 tokens, the first is number \d+$"
    with pytest.raises(InputError, match=message):
        read_examples(write([row]), tokenizer, 10)


def test_tokenizer_of_another_model(write, tokenizer):
    message = r"line 1: token ids should be below the model's vocabulary of 100, was \d+; the tok"
    with pytest.raises(InputError, match=message):
        read_examples(write([{"text": "But soft"}]), tokenizer, 64, vocab_size=100)


def test_places_that_hold_no_data(write, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"a data file should be .txt or .jsonl, was '.csv'"):
        read_examples(write("a,b", "d.csv"), tokenizer, 64)
    with pytest.raises(InputError, match=r"absent.txt: cannot read the data: No such file"):
        read_examples(tmp_path / "absent.txt", tokenizer, 64)
    with pytest.raises(
        InputError, match=r"empty.txt: should hold at least one example, holds none"
    ):
        read_examples(write("", "empty.txt"), tokenizer, 64)
    with pytest.raises(InputError, match=r"max_length should be at least 2 tokens, was 1"):
        read_examples(write([{"text": "a"}]), tokenizer, 1)
