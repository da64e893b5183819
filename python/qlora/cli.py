"""The `qlora` command: picks the subcommand, imports only that one, turns bad input into one line.

Exit codes: 0 done, 1 an unexpected error (with its traceback), 2 bad input, 130 interrupted, 141
whoever read the output has gone (`qlora generate ... | head`).
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

from qlora.spelling import did_you_mean

# name -> module and what `qlora --help` says about it, so that no module is imported for that.
# A module has HELP (a sentence or more), EXAMPLES, add_arguments(parser) and run(arguments).
COMMANDS = {
    "recipe": ("qlora.recipe.command", "settings for a data file, and what is wrong with it"),
    "train": ("qlora.train.command", "fine-tune a model: 4-bit base, LoRA adapters"),
    "evaluate": ("qlora.evaluate", "loss, perplexity and accuracy on a data set"),
    "generate": ("qlora.generate", "continue a prompt, with or without an adapter"),
    "quantize": (
        "qlora.quantize.command",
        "a model folder in 4 or 8 bits, and what that costs",
    ),
    "merge": ("qlora.merge.command", "several adapters to one, and what that costs each of them"),
    "plan": ("qlora.plan.command", "what a fine-tune takes in memory, and what fits"),
    "doctor": ("qlora.doctor.command", "why a run went as it did, and what to change"),
    "export": ("qlora.export.command", "an adapter, alone or merged, as other programs read it"),
}

EXTRA = {"accelerate", "gguf", "matplotlib", "rich", "tensorboard", "transformers", "yaml"}

EPILOG = """\
examples:
  qlora train --model SmolLM2-135M-Instruct.gguf --data train.jsonl --output runs/first
  qlora evaluate --model SmolLM2-135M-Instruct.gguf --adapter runs/first/adapter --data test.jsonl
  qlora generate --model SmolLM2-135M-Instruct.gguf --adapter runs/first/adapter --prompt "Hello"

Every command explains itself: qlora COMMAND --help
"""


class CommandModule(Protocol):
    """What a subcommand's module offers."""

    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work; returns the exit code."""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, nearest names for typing errors, and no abbreviations."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # `--weights -0.5,1`: no option begins with a digit, so this is a value.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line."""
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; the first unknown argument is an error that names the nearest option."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            word = unknown[0].split("=")[0]
            options = [option for option in self._option_string_actions if option.startswith("--")]
            self.error(f"unknown argument {word}{did_you_mean(word, options)} (see --help)")
        return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the bar of GGUF files; read at tqdm's import
    try:
        try:
            return _run_told(words)
        finally:
            sys.stdout.flush()  # a reader that has gone is told here, not when Python ends
    except BrokenPipeError:
        _write_nowhere()
        return 141


def _run_told(words: list[str]) -> int:
    """Run; what is expected to go wrong is told in one line."""
    try:
        return _run(words)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRA:
            raise
        needs = "needs pip install 'qlora_kernels[train]'"
        print(f"qlora {words[0]}: {needs} (no module {error.name})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qlora: interrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        from qlora_kernels.errors import InputError  # torch comes with it: not for `qlora --help`

        if not isinstance(error, InputError):
            raise
        print(f"qlora: {error}", file=sys.stderr)
        return 2


def _write_nowhere() -> None:
    """Let what is still buffered vanish: Python flushes it at its end, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _run(words: list[str]) -> int:
    listing = "\n".join(f"  {name:10} {line}" for name, (_, line) in COMMANDS.items())
    description = f"Fine-tune language models on a 4-bit base.\n\ncommands:\n{listing}"
    parser = Parser("qlora", description, EPILOG)
    parser.add_argument("command", metavar="COMMAND", help="one of the commands above")
    command = parser.parse_strictly(words[:1]).command
    if command not in COMMANDS:
        parser.error(f"unknown command {command}{did_you_mean(command, COMMANDS)} (see --help)")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    module = cast(CommandModule, import_module(COMMANDS[command][0]))
    parser = Parser(f"qlora {command}", module.HELP, module.EXAMPLES)
    module.add_arguments(parser)
    return module.run(parser.parse_strictly(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
