"""`qlora generate`: a model, with or without an adapter, goes on from a prompt."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments, setting
from qlora.storage import Format, base_config
from qlora_kernels.errors import InputError

HELP = """\
Continue a prompt with a model on a 4-bit base, with or without an adapter.

Greedy by default: the likeliest token, again and again. The text appears as it is made; it ends
with the model's end-of-text token or after --max-new-tokens."""

EXAMPLES = """\
examples:
  qlora generate --model SmolLM2-135M-Instruct --chat --prompt "What is the capital of France?"
  qlora generate --model model.gguf --adapter runs/first/adapter --prompt "turn on the lamp ->"
  qlora generate --model model.gguf --format none --temperature 0.8 --seed 1 --prompt "Once upon"
  qlora generate --model model.gguf --prompt - --json < prompt.txt"""


@dataclass(frozen=True)
class GenerateSettings:
    """What to generate with; every field is a flag and a key of `--config`."""

    model: Path = field(metadata={"help": "Hugging Face folder or .gguf file of a causal LM"})
    prompt: str = field(metadata={"help": "text to go on from; - reads it from standard input"})
    adapter: Path | None = setting(None, "folder of an adapter, by `qlora train` or peft")
    chat: bool = setting(False, "ask the prompt as a user's message, with the chat template")
    max_new_tokens: int = setting(128, "stop after so many tokens")
    temperature: float = setting(0.0, "0 takes the likeliest token; 1 samples as the model says")
    top_p: float = setting(1.0, "sample from the likeliest tokens that make up this probability")
    seed: int = setting(0, "of the sampling")
    format: Format = setting("nf4", "storage of the base, as in training; none leaves it as it is")
    format_pattern: dict[str, Format] | None = setting(
        None, "another storage for some layers, as in training: down_proj=int8"
    )
    block_size: int = setting(64, "weights that share one scale, as in training")
    double_quant: bool = setting(True, "quantize the scales too, as in training")
    scale_search: bool = setting(False, "search each block's scale, as in training")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "of the computation; auto: bfloat16 where the processor has it, else float32"
    )

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name, fits, should in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not fits:
                raise InputError(f"generate: {name} should be {should}, was {getattr(self, name)}")


@dataclass(frozen=True)
class Completion:
    """What `--json` prints; `tokens` counts the new ones, the end-of-text token included."""

    prompt: str
    completion: str
    tokens: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, GenerateSettings)
    parser.add_argument(
        "--json", action="store_true", help="print prompt, completion, tokens, seconds as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Generate; returns the exit code."""
    settings = from_arguments(GenerateSettings, arguments)
    prompt = sys.stdin.read() if settings.prompt == "-" else settings.prompt
    from transformers import TextStreamer  # takes seconds to import

    from qlora.half_head import WORTH_IT_FROM, halve_head
    from qlora.models import load_tuned

    model, tokenizer = load_tuned(
        settings.model, settings.adapter, base_config(settings), settings.dtype
    )
    if settings.max_new_tokens >= WORTH_IT_FROM:
        halve_head(model)
    options = {"skip_prompt": True, "skip_special_tokens": True}
    streamer = None if arguments.json else TextStreamer(tokenizer, **options)
    completion = complete(model, tokenizer, prompt, settings, streamer)
    if arguments.json:
        print(json.dumps(asdict(completion), ensure_ascii=False))
    return 0


def complete(
    model: Any, tokenizer: Any, prompt: str, settings: GenerateSettings, streamer: Any = None
) -> Completion:
    """Continue `prompt`; the tokens before the answer are the same as in training.

    Raises InputError for a prompt without tokens, and where prompt and answer exceed the positions
    of the model.
    """
    import torch
    from transformers import GenerationConfig, set_seed

    from qlora.decoding import decoder

    tokens = _prompt_tokens(tokenizer, prompt, settings.chat)
    _check_length(model, len(tokens), settings.max_new_tokens)
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=settings.temperature > 0,
        eos_token_id=_ends(model, tokenizer),
        pad_token_id=_ends(model, tokenizer)[0],
        **(sampling if settings.temperature > 0 else {}),
    )
    inputs = torch.tensor([tokens], device=model.device)
    set_seed(settings.seed)
    start = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=config,
            streamer=streamer,
            custom_generate=decoder(model, streamer),
        )
    seconds = time.perf_counter() - start
    answer = output[0, len(tokens) :]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    return Completion(prompt, text, tokens=len(answer), seconds=round(seconds, 3))


def _prompt_tokens(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    from qlora.data.chat import reply_tokens
    from qlora.data.encode import prompt_tokens

    tokens = (reply_tokens if chat else prompt_tokens)(tokenizer, prompt)
    if not tokens:
        raise InputError("generate: prompt should have at least one token, was empty")
    return tokens


def _check_length(model: Any, num_prompt: int, num_new: int) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and num_prompt + num_new > longest:
        raise InputError(
            f"generate: prompt and new tokens should fit the {longest} positions of the model,"
            f" were {num_prompt} + {num_new}"
        )


def _ends(model: Any, tokenizer: Any) -> Sequence[int]:
    """Tokens that end an answer: the model's (chat models have an end of turn) and the tokenizer's.

    Raises InputError where neither has one.
    """
    told = model.generation_config.eos_token_id
    ends = [] if told is None else [told] if isinstance(told, int) else list(told)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise InputError("generate: the model should have an end-of-text token, has none")
    return ends
