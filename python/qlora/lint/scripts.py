"""How dear each script of a text is to a tokenizer, and whether its base can know it.

    tokens per character = tokens of a script's words / their characters
    pieces = share of those tokens that hold only a part of a character, or stand for the unknown

A base that met a script in pretraining has tokens for its letters; to one that did not, each letter
is two or three bytes. Chinese takes more tokens per character than English in every tokenizer,
because a character says more: only together with pieces do tokens per character tell.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# A script is hardly known where at least half of its tokens are pieces, and a character takes at
# least 3 times the tokens of an English one. SmolLM2, which met little but English, pays 1.8 (Thai)
# to 2.3 (Korean) with 0.9 to 1.0 pieces; for Russian, which it has letters of, 0.8 with 0.1.
PIECES = 0.5
DEARER = 3.0

SAMPLE = 20_000  # characters of a script that are tokenized; more would not change the ratio

# What every tokenizer was made for, so that a file without English has something to stand beside.
ENGLISH = (
    "The river had risen in the night, and by the time they came down to the bridge the water was"
    " already at the second step. Nobody said a word; there was nothing to be done but wait for the"
    " morning, and then to see what could be saved and which of the old houses were still standing."
)

# A character's name begins with its script and goes on with one of these: THAI CHARACTER KO KAI.
KINDS = {
    *("ADDAK", "CAPITAL", "CHARACTER", "CONSONANT", "DIGIT", "FINAL", "IDEOGRAPH", "INDEPENDENT"),
    *("LETTER", "LIGATURE", "MARK", "SIGN", "SMALL", "SUBJOINED", "SYLLABLE", "SYMBOL", "TONE"),
    *("VOWEL", "CHOSEONG", "JUNGSEONG", "JONGSEONG", "COMPATIBILITY", "UNIFIED", "DEPENDENT"),
}
WIDTHS = {"FULLWIDTH", "HALFWIDTH"}  # stand before the script: FULLWIDTH LATIN CAPITAL LETTER A
SHARED = {"Combining", "Modifier", "Mathematical", "Feminine", "Masculine", "Micro"}  # no script's
RENAMED = {
    "Cjk": "Han",
    "Canadian": "Canadian Syllabics",
    "Katakana Hiragana Prolonged Sound": "Katakana",
}


@dataclass(frozen=True, slots=True)
class ScriptCost:
    """One script of a text; `tokens` and `pieces` are of the sampled words."""

    script: str  # "Latin", "Thai", "Ethiopic", ...
    characters: int  # letters and vowel signs in all of the text
    share: float  # of the text's letters
    sampled: int  # characters of the words that were tokenized, the blanks before them included
    tokens: int
    pieces: int
    example: str  # a word of it, the longest of the first ones
    english: float  # tokens per character of plain English, by the same tokenizer

    @property
    def tokens_per_character(self) -> float:
        """Of the sampled words."""
        return self.tokens / self.sampled

    @property
    def piece_share(self) -> float:
        """Share of the tokens that hold no whole character."""
        return self.pieces / self.tokens if self.tokens else 0.0

    @property
    def hardly_known(self) -> bool:
        """Whether a base of this tokenizer can hardly have met the script in pretraining."""
        dear = self.tokens_per_character >= DEARER * self.english
        return dear and self.piece_share >= PIECES


@lru_cache(maxsize=2**16)
def script_of(character: str) -> str | None:
    """The script of a letter or vowel sign, as "Latin"; None for all that no script owns.

    By the beginning of the character's Unicode name; kanji and hanzi are both "Han".
    """
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "COMBINING").replace("-", " ").split()
    own = words[1:] if words[0] in WIDTHS else words
    end = next((i for i, word in enumerate(own) if word in KINDS), 1)
    name = " ".join(own[:end]).title()
    if not name or name.split()[0] in SHARED:
        return None
    return RENAMED.get(name, name)


def count_scripts(texts: Iterable[str]) -> Counter[str]:
    """Letters of each script."""
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    scripts: Counter[str] = Counter()
    for character, count in characters.items():
        if (script := script_of(character)) is not None:
            scripts[script] += count
    return scripts


def words_of(text: str) -> Iterator[tuple[str, str]]:
    """(script, word) for each stretch of letters of one script, with the blank before it, if any.

    The blank belongs to the word's first token in most tokenizers.
    """
    start, script = 0, None
    for place, character in enumerate(text):
        now = script_of(character)
        if now is None and script is not None and unicodedata.category(character)[0] == "M":
            continue  # an accent that is written apart belongs to its letter
        if now != script:
            if script is not None:
                yield script, text[start:place]
            start, script = place, now
            if script is not None and text[place - 1 : place] == " ":
                start = place - 1
    if script is not None:
        yield script, text[start:]


def measure_scripts(tokenizer: Any, texts: Iterable[str]) -> list[ScriptCost]:
    """What each script of `texts` costs with a transformers tokenizer; most letters first.

    All letters are counted; of each script the first words, of `SAMPLE` characters, are tokenized.
    """
    texts = list(texts)
    counts = count_scripts(texts)
    words = _sample(texts, counts)
    whole = _Pieces(tokenizer)
    english, _ = whole.count([word for _, word in words_of(ENGLISH)])
    per_character = english / sum(len(word) for _, word in words_of(ENGLISH))
    costs = []
    for script, count in counts.most_common():
        tokens, pieces = whole.count(words[script])
        costs.append(
            ScriptCost(
                script=script,
                characters=count,
                share=count / counts.total(),
                sampled=sum(map(len, words[script])),
                tokens=tokens,
                pieces=pieces,
                example=max(words[script][:20], key=len).strip(),
                english=per_character,
            )
        )
    return costs


def _sample(texts: list[str], counts: Counter[str]) -> dict[str, list[str]]:
    """The first words of each script; a text of which nothing more is wanted is passed over."""
    words: dict[str, list[str]] = {script: [] for script in counts}
    room = {script: min(SAMPLE, count) for script, count in counts.items()}
    for text in texts:
        if all(room.get(script_of(character) or "", 0) <= 0 for character in set(text)):
            continue
        for script, word in words_of(text):
            if room[script] > 0:
                words[script].append(word)
                room[script] -= len(word.strip())
    return words


class _Pieces:
    """Counts the tokens of words, and those among them that hold no whole character."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[int, bool] = {}

    def count(self, words: list[str]) -> tuple[int, int]:
        """(tokens, pieces)."""
        rows = self.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        ids = Counter(token for row in rows for token in row)
        return ids.total(), sum(count for token, count in ids.items() if self._is_piece(token))

    def _is_piece(self, token: int) -> bool:
        """Alone, bytes that are no character are decoded to U+FFFD, in any kind of tokenizer."""
        if token not in self.known:
            unknown = token == getattr(self.tokenizer, "unk_token_id", None)
            self.known[token] = unknown or "\ufffd" in self.tokenizer.decode([token])
        return self.known[token]
