"""Duplicates and leakage, exact and but for case and blanks."""

import random

from hypothesis import given
from hypothesis import strategies as st

from app.lint.material import chat, pairs, support_talk
from qlora.lint.passages import Passage, Passages, read_passages
from qlora.lint.repeats import find_duplicates, find_leakage

SONNET = (
    "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n"
    "Rough winds do shake the darling buds of May,"
)


def of_texts(*texts: str) -> list[Passage]:
    return [Passage(f"d.jsonl line {n}", text) for n, text in enumerate(texts, start=1)]


def test_clean_data_says_nothing(write):
    passages = Passages.apart(
        read_passages(write(pairs(0, 50))), read_passages(write(pairs(50, 60), "v.jsonl"))
    )
    assert find_duplicates(passages) == find_leakage(passages) == []


def test_a_corpus_of_1050_rows_of_which_10_differ(write):
    passages = read_passages(write(support_talk()))
    held = {p.source for p in random.Random(0).sample(passages, 52)}
    parted = Passages.parted(passages, held)
    (duplicates,) = find_duplicates(parted)
    assert duplicates.message == (
        "1,040 of 1,050 (99.0%) rows repeat another, word for word: only 10 are different"
    )
    assert duplicates.evidence[0] == '105 times, lines 1, 11, 21, 31, …: "0 + 1? It is 1."'
    (leakage,) = find_leakage(parted)
    assert leakage.message.startswith("52 of 52 (100%) validation rows are in the training data")
    assert "before the split" in leakage.fix


def test_case_and_blanks_do_not_hide_a_repeat(write):
    rows = [*pairs(0, 8), {"prompt": "3  + 1?", "completion": "IT is 4."}, pairs(0, 8)[0]]
    (duplicates,) = find_duplicates(Passages.apart(read_passages(write(rows))))
    assert "2 of 10 (20%) rows repeat another (1 word for word, 1 but for" in duplicates.message
    assert duplicates.evidence[1] == '2 times, lines 4, 9: "3 + 1? It is 4."'


def test_leakage_names_both_lines(write):
    train = read_passages(write([*pairs(0, 40), *pairs(90, 91), chat("Nay, answer me.")]))
    rows = [*pairs(39, 60), {"prompt": "90 + 1?", "completion": "it is 91."}]
    validation = read_passages(write([*rows, chat("Nay, answer me.")], "v.jsonl"))
    (leakage,) = find_leakage(Passages.apart(train, validation))
    assert "3 of 23 (13%) validation rows" in leakage.message
    assert "(2 word for word, 1 but for case and blanks)" in leakage.message
    assert leakage.evidence == (
        'validation line 1 = training line 40: "39 + 1? It is 40."',
        'validation line 22 = training line 41: "90 + 1? it is 91."',
        'validation line 23 = training line 42: "Who is there? Nay, answer me."',
    )
    assert leakage.fix == "take them out of one of the two files"


def test_paragraphs_of_a_text_are_compared_by_where_they_begin(write):
    text = f"\n\nEnter HAMLET.\n\n{SONNET}\n\n\nEnter HAMLET.\n  \n{SONNET.upper()}\n"
    passages = read_passages(write(text, "play.txt"))
    assert [passage.place for passage in passages] == ["line 3", "line 5", "line 10", "line 12"]
    (duplicates,) = find_duplicates(Passages.apart(passages))
    assert "1 of 2 (50%) paragraphs repeat another, but for case and blanks" in duplicates.message
    assert duplicates.evidence[0].startswith("2 times, lines 5, 12: ")


@given(st.lists(st.sampled_from(["a", "A", " a", "b", "B ", "c"]), min_size=1, max_size=12))
def test_counts_are_those_of_sets(texts: list[str]):
    distinct = {text.strip().lower() for text in texts}
    found = find_duplicates(Passages.apart(of_texts(*texts)))
    assert bool(found) == (len(distinct) < len(texts))
    if found:
        assert found[0].message.startswith(f"{len(texts) - len(distinct)} of {len(texts)} ")
        assert found[0].message.endswith(f"only {len(distinct)} are different")


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("bcde"), min_size=1))
def test_leaks_are_the_validation_texts_that_are_trained_on(train: list[str], held: list[str]):
    found = find_leakage(Passages.apart(of_texts(*train), of_texts(*held)))
    leaks = sum(text in train for text in held)
    assert bool(found) == bool(leaks)
    assert not found or found[0].message.startswith(f"{leaks} of {len(held)} ")
