"""What the fixture's tokenizer, made to be as wrong as tokenizers are, makes of examples."""

from copy import deepcopy

import pytest

from app.lint.material import chat, pairs
from qlora.data.rows import read_rows
from qlora.data.sources import encode_row, shortened
from qlora.lint.tokens import (
    Tokenized,
    as_ends,
    find_doubled_beginnings,
    find_foreign_ends,
    find_missing_ends,
    find_pad_as_end,
    find_truncation,
    find_unlearnable,
)


@pytest.fixture
def tokenized(write):
    """`tokenized(tokenizer, rows, 64)`: the rows as training sees them."""

    def make(tokenizer, rows, length=64, **more) -> Tokenized:
        examples = [
            shortened(example, length)
            for source, row in read_rows(write(rows))
            for example in encode_row(tokenizer, row, length, source)
        ]
        learned = [example for example in examples if example.num_supervised]
        rest = [example for example in examples if not example.num_supervised]
        return Tokenized(tokenizer, learned, length, rest, **more)

    return make


@pytest.fixture
def own(tokenizer):
    """A tokenizer that a test may change."""
    return deepcopy(tokenizer)


def all_of(data: Tokenized) -> list[str]:
    finders = (find_truncation, find_unlearnable, find_missing_ends, find_doubled_beginnings)
    return [notice.kind for find in finders for notice in find(data)]


def test_good_rows_say_nothing(tokenizer, tokenized):
    rows = [*pairs(0, 9), chat("Nay, answer me."), {"text": "To be or not to be. " * 40}]
    assert all_of(tokenized(tokenizer, rows)) == []


def test_truncation_counts_and_recommends_a_length(tokenizer, tokenized):
    rows = [*pairs(0, 98), *({"prompt": "On?", "completion": "word " * n} for n in (70, 300))]
    data = tokenized(tokenizer, rows)
    (notice,) = find_truncation(data)
    assert notice.message.startswith("2 of 100 (2%) examples are longer than 64 tokens")
    whole = [tokenized(tokenizer, rows, 10_000).examples[n] for n in (98, 99)]
    lost = sum(len(example) - 64 for example in whole)
    assert f"{lost:,} of " in notice.evidence[0]
    assert notice.evidence[1].endswith(f"train.jsonl line 100, has {len(whole[1]):,}")
    keeps_all = next(n for n in range(64, 10_000, 64) if n >= len(whole[1]))
    assert f"--sequence-length {keeps_all} keeps all of them" in notice.fix
    assert find_truncation(tokenized(tokenizer, rows, keeps_all)) == []


def test_a_length_for_99_in_100_is_named_where_few_are_long(tokenizer, tokenized):
    rows = [*pairs(0, 290), *({"prompt": "On?", "completion": "word " * n} for n in (60,) * 9)]
    rows.append({"prompt": "On?", "completion": "word " * 900})
    (notice,) = find_truncation(tokenized(tokenizer, rows))
    length = int(notice.fix.split()[1])
    kept = find_truncation(tokenized(tokenizer, rows, length))
    assert kept[0].message.startswith("1 of 300 (0.3%)")


def test_rows_without_a_token_to_learn(tokenizer, tokenized):
    asked = {"messages": [{"role": "user", "content": "Who is there?"}]}
    rows = [*pairs(0, 8), asked, {"prompt": "word " * 99, "completion": "x"}]
    data = tokenized(tokenizer, rows)
    (notice,) = find_unlearnable(data)
    assert notice.message == (
        "2 of 10 (20%) examples have no token to learn; in 1 the prompt alone fills the 64 tokens"
    )
    assert "train.jsonl line 9, " in notice.evidence[0]


def test_a_template_that_never_ends_a_turn(own, tokenized):
    good = tokenized(own, [chat("Nay.")])
    assert find_missing_ends(good) == []
    own.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (notice,) = find_missing_ends(tokenized(own, [*pairs(0, 3), chat("Nay.")]))
    assert notice.message.startswith("1 of 4 (25%) examples end without '<|im_end|>'")
    assert notice.evidence[0].endswith("Nay.\\n'")


def test_an_end_that_generation_stops_at_is_one(own, tokenized):
    """As Gemma's <end_of_turn>, which its generation_config.json names beside <eos>."""
    own.chat_template = "{% for m in messages %}{{ m.content }}<|pad|>{% endfor %}"
    data = [chat("Nay.")]
    assert find_missing_ends(tokenized(own, data))
    assert not find_missing_ends(tokenized(own, data, ends=as_ends([own.pad_token_id])))


def test_two_beginnings(own, tokenized):
    twice = f"{own.bos_token}{own.bos_token}To be"
    (notice,) = find_doubled_beginnings(tokenized(own, [{"text": twice}, {"text": "To be"}]))
    assert notice.message.startswith("1 of 2 (50%) examples begin with '<|im_start|>' twice")
    assert twice in notice.evidence[0]


def test_pad_as_end(own):
    assert find_pad_as_end(own) == []
    own.pad_token = own.eos_token
    (notice,) = find_pad_as_end(own)
    assert "<|im_end|>" in notice.message


def test_another_models_end(tokenizer):
    texts = [("line 1", "To be</s>"), ("line 2", "or not<|im_end|>"), ("line 3", "to be")]
    (notice,) = find_foreign_ends(tokenizer, texts)
    assert "1 of 3 (33%) passages contain '</s>'" in notice.message
    assert notice.evidence == ("line 1",)


@pytest.mark.parametrize(("told", "ends"), [(None, set()), (2, {2}), ([1, 106], {1, 106})])
def test_ends_of_a_generation_configuration(told, ends):
    assert as_ends(told) == ends
