"""What a tokenizer makes of the examples: cut ends, nothing to learn, no end, two beginnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qlora.data.encode import IGNORE, Example
from qlora.lint.notice import Notice, quoted, share

SHOWN = 3
FITTING = 0.99  # share of the examples that a recommended length keeps whole
STEP = 64  # recommended lengths are multiples of it

# How other models end a turn or a text. In data for a tokenizer that lacks one it is plain text.
FOREIGN_ENDS = ("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


@dataclass(frozen=True)
class Tokenized:
    """Examples as training sees them, cut at `length`; `unlearnable` have no token to learn."""

    tokenizer: Any
    examples: Sequence[Example]
    length: int
    unlearnable: Sequence[Example] = ()
    ends: frozenset[int] = frozenset()  # tokens at which generation stops, beside the tokenizer's
    out_of: int | None = None  # rows of the file, where these are a sample

    def count(self, part: int) -> str:
        """`3 of 1,200 (0.2%)` examples, or sampled ones."""
        whole = len(self.examples) + len(self.unlearnable)
        sampled = f" sampled (of {self.out_of:,})" if self.out_of else ""
        return f"{share(part, whole)}{sampled}"


def find_truncation(tokenized: Tokenized) -> list[Notice]:
    """Completions and conversations that lose their end; documents are cut in pieces, not lost."""
    length = tokenized.length
    cut = [example for example in tokenized.examples if example.cut]
    if not cut:
        return []
    whole = sorted(len(example) + example.cut for example in tokenized.examples)
    lost = sum(example.cut for example in cut)
    longest = max(cut, key=lambda example: example.cut)
    fitting = _rounded(whole[min(len(whole) - 1, int(FITTING * len(whole)))])
    most = f"--sequence-length {fitting} keeps {FITTING:.0%} whole, " if fitting > length else ""
    return [
        Notice(
            "truncation",
            f"{tokenized.count(len(cut))} examples are longer than {length} tokens and"
            " lose their end, with the token that says stop",
            (
                f"{share(lost, sum(whole))} tokens are lost; half of the examples have at most"
                f" {whole[len(whole) // 2]:,}",
                f"the longest, {longest.source}, has {len(longest) + longest.cut:,}",
            ),
            f"{most}--sequence-length {_rounded(whole[-1])} keeps all of them (qlora plan says what"
            " that takes in memory); or shorten them",
        )
    ]


def find_unlearnable(tokenized: Tokenized) -> list[Notice]:
    """Examples without a label: `qlora train` refuses them, since they train nothing."""
    rows = tokenized.unlearnable
    if not rows:
        return []
    cut = sum(example.cut > 0 for example in rows)
    why = f"; in {cut:,} the prompt alone fills the {tokenized.length} tokens" if cut else ""
    return [
        Notice(
            "no-supervision",
            f"{tokenized.count(len(rows))} examples have no token to learn{why}",
            tuple(f"{example.source}, {len(example) + example.cut:,} tokens" for example in rows)[
                :SHOWN
            ],
            "give each an answer of the assistant, or a longer --sequence-length; qlora train"
            " refuses the file as it is",
        )
    ]


def find_missing_ends(tokenized: Tokenized) -> list[Notice]:
    """Whole examples whose last token to learn is no end: the model learns to go on and on."""
    ends = {tokenized.tokenizer.eos_token_id, *tokenized.ends}
    endless = [
        example
        for example in tokenized.examples
        if example.kind != "text" and not example.cut and _last_label(example) not in ends
    ]
    if not endless:
        return []
    tokenizer = tokenized.tokenizer
    first = endless[0]
    return [
        Notice(
            "missing-eos",
            f"{tokenized.count(len(endless))} examples end without {tokenizer.eos_token!r}, the"
            " end-of-text token: the model learns to go on and on",
            (f"{first.source} ends with {tokenizer.decode(first.input_ids[-8:])!r}",),
            "make the chat template write the tokenizer's eos_token after each turn of the"
            " assistant, or name the token that it writes there as eos_token",
        )
    ]


def find_doubled_beginnings(tokenized: Tokenized) -> list[Notice]:
    """Examples that begin with the begin-of-text token twice, which no model was trained on."""
    begin = tokenized.tokenizer.bos_token_id
    if begin is None:
        return []
    doubled = [e for e in tokenized.examples if e.input_ids[:2] == [begin, begin]]
    if not doubled:
        return []
    name = tokenized.tokenizer.bos_token
    return [
        Notice(
            "doubled-bos",
            f"{tokenized.count(len(doubled))} examples begin with {name!r} twice, which no model"
            " has met in pretraining",
            tuple(
                f"{e.source}: {quoted(tokenized.tokenizer.decode(e.input_ids[:12]))}"
                for e in doubled[:SHOWN]
            ),
            f"take {name!r} out of the data: the tokenizer or the chat template writes it",
        )
    ]


def find_pad_as_end(tokenizer: Any) -> list[Notice]:
    """A pad token that is the end-of-text token, which trainers that mask by token id unlearn."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    return [
        Notice(
            "pad-is-eos",
            f"the pad token is the end-of-text token, {tokenizer.eos_token!r}",
            ("harmless here: padding is masked by position, and ends of examples are learned",),
            "before training elsewhere, set another pad_token: a trainer that masks by token id"
            " would never teach the model to stop",
        )
    ]


def find_foreign_ends(tokenizer: Any, texts: Sequence[tuple[str, str]]) -> list[Notice]:
    """Another model's end token in (source, text), which is plain characters to this one."""
    notices = []
    for marker in FOREIGN_ENDS:
        places = [source for source, text in texts if marker in text]
        if places and marker not in tokenizer.get_vocab():
            notices.append(
                Notice(
                    "foreign-eos",
                    f"{share(len(places), len(texts))} passages contain {marker!r}, another model's"
                    f" end token; here it is {len(tokenizer.tokenize(marker))} plain tokens, which"
                    " the model will learn to print",
                    tuple(places[:SHOWN]),
                    f"take {marker!r} out; {tokenizer.eos_token!r} is added at the end by itself",
                )
            )
    return notices


def as_ends(told: int | Sequence[int] | None) -> frozenset[int]:
    """A generation configuration's `eos_token_id`, which is one token or several."""
    return frozenset([told] if isinstance(told, int) else told or ())


def _last_label(example: Example) -> int | None:
    return next((label for label in reversed(example.labels) if label != IGNORE), None)


def _rounded(length: int) -> int:
    return -(-length // STEP) * STEP
