"""Tokens per character by script, with the tokenizer of a base that met little but English."""

import pytest

from qlora.lint.scripts import ENGLISH, count_scripts, measure_scripts, script_of, words_of

SAMPLES = {
    "Latin": ("aÉßǆﬁ\uff21", "The settings that were not given follow the data."),
    "Thai": ("กูั", "สวัสดีครับ วันนี้อากาศดีมาก เราจะไปเที่ยวทะเลกันไหม"),
    "Ethiopic": ("ሰላም", "ሰላም እንዴት ነህ ዛሬ አየሩ በጣም ጥሩ ነው"),
    "Cyrillic": ("Дж", "Доброе утро, сегодня очень хорошая погода."),
    "Han": ("天気", "今天天气很好,我们去海边吧。"),
    "Hiragana": ("こん", "こんにちは"),
    "Katakana": ("データーﾃ", "データベース"),
    "Hangul": ("안ㄱᄀ", "안녕하세요 오늘 날씨가 아주 좋네요"),
    "Devanagari": ("नि", "नमस्ते आज मौसम बहुत अच्छा है"),
    "Arabic": ("صب", "صباح الخير كيف حالك اليوم"),
    "Greek": ("Καέ", "Καλημέρα, πώς είσαι σήμερα"),
    "Georgian": ("დი", "დილა მშვიდობისა"),
    "Canadian Syllabics": ("ᐃᓄ", "ᐃᓄᒃᑎᑐᑦ"),
    "Tai Le": ("ᥐᥑ", "ᥖᥭᥰ"),
    "Tibetan": ("ཀྲ", "བོད་སྐད"),
}


@pytest.mark.parametrize("script", SAMPLES)
def test_a_letter_knows_its_script(script: str):
    letters, sentence = SAMPLES[script]
    assert {script_of(letter) for letter in letters} == {script}
    assert count_scripts([sentence]).most_common(1)[0][0] == script


@pytest.mark.parametrize("character", [*" 7.,!?-_\n…€½²😀\u0301\u200bªµ", "\ue000", "\U0001d400"])
def test_what_no_script_owns_has_none(character: str):
    assert script_of(character) is None


def test_words_keep_their_blank_and_their_accents():
    text = "Go to สวัส, cafe\u0301s 42x\u0301"
    assert list(words_of(text)) == [
        *(("Latin", "Go"), ("Latin", " to"), ("Thai", " สวัส")),
        *(("Latin", " cafe\u0301s"), ("Latin", "x\u0301")),
    ]


def test_every_letter_is_in_a_word_and_counted_once():
    text = " ".join(sentence for _, sentence in SAMPLES.values())
    letters = sum(script_of(character) is not None for character in text)
    assert count_scripts([text]).total() == letters
    in_words = sum(script_of(c) is not None for _, word in words_of(text) for c in word)
    assert in_words == letters


@pytest.mark.parametrize("script", ["Thai", "Ethiopic", "Han", "Hangul", "Cyrillic", "Georgian"])
def test_a_base_of_english_plays_hardly_knows_other_scripts(tokenizer, script: str):
    """The fixture's tokenizer saw Shakespeare alone: every letter from elsewhere is bytes."""
    latin, other = measure_scripts(tokenizer, [ENGLISH, SAMPLES[script][1]])
    assert (latin.script, other.script) == ("Latin", script)
    assert not latin.hardly_known
    assert other.hardly_known
    assert other.example in SAMPLES[script][1]


def test_the_numbers_are_those_of_the_words(tokenizer):
    (cost,) = measure_scripts(tokenizer, ["ሰላም እንዴት"])
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("ሰላም", " እንዴት")]
    assert cost.tokens == sum(map(len, ids))
    assert cost.sampled == len("ሰላም እንዴት")
    assert (cost.characters, cost.share) == (7, 1.0)
    whole = sum("\ufffd" not in tokenizer.decode([token]) for row in ids for token in row)
    assert cost.pieces == cost.tokens - whole


def test_a_tokenizer_that_has_the_letters_is_not_accused():
    """Dear without pieces is no proof: a Chinese character says as much as an English word."""

    class Characters:
        """A token per character, as a Chinese vocabulary has for its own; English in words."""

        unk_token_id = 0

        def __call__(self, words, **options):
            ids = [[7] if word.isascii() else list(map(ord, word)) for word in words]
            return {"input_ids": ids}

        def decode(self, ids):
            return "".join(map(chr, ids))

    (cost,) = measure_scripts(Characters(), [SAMPLES["Han"][1]])
    assert cost.tokens_per_character == 1
    assert cost.tokens_per_character > 3 * cost.english
    assert not cost.hardly_known


def test_no_letters_no_scripts(tokenizer):
    assert measure_scripts(tokenizer, ["12 + 30 = 42", ""]) == []
