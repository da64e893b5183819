"""Conversations through the model's own chat template; only the assistant's turns carry loss.

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
    no loss ........................................... loss ..........

Where a turn begins and ends is found by rendering the conversation up to it, so any template works
whose output for the first turns is the beginning of its output for all of them.
"""

from typing import Any

from qlora.data.encode import IGNORE, Example
from qlora_kernels.errors import InputError

Message = dict[str, str]


def encode_chat(tokenizer: Any, messages: list[Message], source: str) -> Example:
    """The rendered conversation; tokens that begin inside an assistant's turn are supervised.

    A turn ends with its end-of-text token where the template writes one, else with all that the
    template writes after it. The template also writes the begin-of-text token, if any.
    Raises InputError without a template, without a turn of the assistant, and for a template that
    writes earlier turns differently once later ones follow.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{source}: `messages` need a fast tokenizer, {type(tokenizer).__name__} is not"
        )
    if messages[0]["role"] == "assistant":
        raise InputError(
            f"{source}: a conversation should begin with another role than the assistant's"
        )
    text = render(tokenizer, messages, source)
    spans = [
        _span(tokenizer, messages, turn, text, source)
        for turn, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = list(encoded["input_ids"])
    labels = [
        token if any(start <= begin < end for start, end in spans) else IGNORE
        for token, (begin, _) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    return Example(ids, [IGNORE, *labels[1:]], "chat", source)


def reply_tokens(tokenizer: Any, question: str) -> list[int]:
    """A user's question as tokens, up to where the assistant begins to answer."""
    text = render(tokenizer, [{"role": "user", "content": question}], "chat", reply=True)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def render(tokenizer: Any, messages: list[Message], source: str, reply: bool = False) -> str:
    """The conversation as text; with `reply`, up to where the assistant begins to answer."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise InputError(f"{source}: `messages` need a tokenizer with a chat template, it has none")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
    except (TemplateError, TypeError, ValueError) as error:  # a template can raise any of them
        raise InputError(f"{source}: the chat template refuses the messages: {error}") from error
    return str(text)


def _span(
    tokenizer: Any, messages: list[Message], turn: int, text: str, source: str
) -> tuple[int, int]:
    """Where the assistant's message number `turn` stands in `text`, as character positions."""
    before = render(tokenizer, messages[:turn], source, reply=True)
    upto = render(tokenizer, messages[: turn + 1], source)
    if not (upto.startswith(before) and text.startswith(upto)):
        raise InputError(
            f"{source}: the chat template should write message {turn + 1} the same whether or not"
            " others follow, but does not; give each assistant turn a row of its own, as the last"
        )
    end = upto.rfind(tokenizer.eos_token or "", len(before))
    return len(before), end + len(tokenizer.eos_token) if end >= 0 else len(upto)
