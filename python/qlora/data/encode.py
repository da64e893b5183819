"""Text to tokens and labels: which tokens a model is trained to produce.

Labels are masked by position, never by token id: where the pad token is the end-of-text token, the
end of a completion is supervised all the same, else the model would never learn to stop.
"""

from dataclasses import dataclass
from typing import Any, Literal

from qlora_kernels.errors import InputError

IGNORE = -100  # the label of a position that carries no loss, as in torch's cross_entropy

Kind = Literal["text", "completion", "chat"]


@dataclass(frozen=True)
class Example:
    """Tokens of one sequence and, at the same positions, the tokens to be learned or IGNORE.

    `labels[i]` is `input_ids[i]` or IGNORE: the loss shifts. `labels[0]` is always IGNORE, since
    nothing stands before it, so packed neighbours never predict each other.
    """

    input_ids: list[int]
    labels: list[int]
    kind: Kind
    source: str  # "train.jsonl line 7", for messages
    cut: int = 0  # tokens at its end that did not fit

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_supervised(self) -> int:
        """Number of tokens that carry loss."""
        return len(self.labels) - self.labels.count(IGNORE)


def encode_text(tokenizer: Any, text: str, max_length: int, source: str) -> list[Example]:
    """A document, end-of-text token appended, cut into examples of at most `max_length` tokens.

    Every token is supervised but the first of each example. A last piece of one token, which could
    carry no loss, is dropped.
    """
    ids = _with_opening(tokenizer, _tokens(tokenizer, text)) + _ending(tokenizer, text)
    pieces = [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces.pop()
    return [Example(piece, [IGNORE, *piece[1:]], "text", source) for piece in pieces]


def encode_completion(tokenizer: Any, prompt: str, completion: str, source: str) -> Example:
    """Prompt (no loss), completion and end-of-text token (both supervised).

    The two texts are tokenized apart, so the prompt has the same tokens here as when `generate` is
    given it alone; a blank between them belongs to the start of the completion.
    """
    before = _with_opening(tokenizer, _tokens(tokenizer, prompt))
    after = _tokens(tokenizer, completion) + _ending(tokenizer, completion)
    ids = before + after
    labels = [IGNORE] * len(before) + after
    return Example(ids, [IGNORE, *labels[1:]], "completion", source)


def pad_token(tokenizer: Any) -> int:
    """The token that fills rows up; its value never matters, since padding carries no loss."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt's tokens for generation: the same as `encode_completion` has before a completion."""
    return _with_opening(tokenizer, _tokens(tokenizer, prompt))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _with_opening(tokenizer: Any, ids: list[int]) -> list[int]:
    """Put the begin-of-text token in front if this tokenizer does so, and only once."""
    begin = tokenizer.bos_token_id
    adds_it = begin is not None and tokenizer("")["input_ids"][:1] == [begin]
    return [begin, *ids] if adds_it and ids[:1] != [begin] else ids


def _ending(tokenizer: Any, text: str) -> list[int]:
    """The end-of-text token, unless the text spells it out itself."""
    if tokenizer.eos_token_id is None:
        raise InputError("data: the tokenizer should have an end-of-text token, had none")
    return [] if text.endswith(tokenizer.eos_token) else [tokenizer.eos_token_id]
