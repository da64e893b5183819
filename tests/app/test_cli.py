"""The command line: help that teaches, one line for bad input, exit codes for programs."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from qlora import cli
from qlora_kernels.errors import InputError


@pytest.fixture
def command(monkeypatch):
    """Replaces the command `generate` by one whose `run` is the given function."""

    def install(run):
        def add_arguments(parser):
            parser.add_argument("--model")
            parser.add_argument("--learning-rate")

        module = SimpleNamespace(
            HELP="Talks.", EXAMPLES="example", add_arguments=add_arguments, run=run
        )
        monkeypatch.setattr(cli, "import_module", lambda name: module)

    return install


def fails_with(error):
    def run(arguments):
        raise error

    return run


def exit_of(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    return stopped.value.code


def test_help_lists_the_commands_without_importing_them(capsys):
    assert exit_of("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS) and "examples:" in text


def test_help_needs_no_torch():
    code = "import sys, qlora.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_exit_code_is_the_commands(command):
    command(lambda arguments: 7 if arguments.model == "m" else 0)
    assert cli.main(["generate", "--model", "m"]) == 7


def test_bad_input_is_one_line_and_exit_code_2(command, capsys):
    command(fails_with(InputError("rank should be positive, was 0")))
    assert cli.main(["generate"]) == 2
    assert capsys.readouterr().err == "qlora: rank should be positive, was 0\n"


def test_a_missing_extra_is_named(command, capsys):
    command(fails_with(ModuleNotFoundError("No module", name="transformers.models")))
    assert cli.main(["generate"]) == 2
    needs = "qlora generate: needs pip install 'qlora_kernels[train]' (no module transformers"
    assert needs in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_keeps_its_traceback(command):
    command(fails_with(ModuleNotFoundError("No module", name="qlora.absent")))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["generate"])


def test_interruption_is_one_line_and_exit_code_130(command, capsys):
    command(fails_with(KeyboardInterrupt()))
    assert cli.main(["generate"]) == 130
    assert capsys.readouterr().err == "qlora: interrupted\n"


BAD_WORDS = {
    "": "qlora: the following arguments are required: COMMAND",
    "trian": "qlora: unknown command trian; did you mean 'train'? (see --help)",
    "--hlep": "qlora: the following arguments are required: COMMAND",
    "generate --modle m": "qlora generate: unknown argument --modle; did you mean '--model'?",
    "generate --learn 3": "qlora generate: unknown argument --learn",
    "generate --learning_rate=3": "unknown argument --learning_rate; did you mean '--learning-rate",
    "generate --model": "qlora generate: argument --model: expected one argument",
}


@pytest.mark.parametrize(("words", "message"), BAD_WORDS.items())
def test_bad_words_are_one_line_and_exit_code_2(command, capsys, words, message):
    command(lambda arguments: 0)
    assert exit_of(*words.split()) == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


@pytest.mark.parametrize(
    "program",
    [
        "pass",
        "cli._run = lambda words: print('much' * 99999)",
        "cli._run = lambda words: [print('line', flush=True) for _ in range(9)]",
        "cli._run = lambda words: print('more', file=sys.stderr)",
    ],
    ids=["help", "much at once", "line by line", "to the other stream"],
)
def test_a_reader_that_has_gone_ends_it_without_a_traceback(program: str):
    reading, writing = os.pipe()
    os.close(reading)
    program = f"import sys; from qlora import cli; {program}; sys.exit(cli.main(['--help']))"
    ended = subprocess.run(
        [sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr
    assert ended.returncode in (0, 141)  # argparse hides the error of an unbuffered stream
