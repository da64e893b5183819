"""`python -m bench` finds its studies without importing the others, and refuses what it lacks."""

from types import SimpleNamespace

import pytest

from bench import __main__ as command
from qlora_kernels.errors import InputError


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two studies, one of which refuses its input; returns what was imported."""
    imported: list[str] = []

    def add_arguments(parser) -> None:
        parser.add_argument("--seeds", type=int, default=3)

    def run(arguments) -> int:
        if arguments.seeds < 1:
            raise InputError(f"bases: --seeds should be 1 or more, was {arguments.seeds}")
        return arguments.seeds

    def import_module(name: str) -> SimpleNamespace:
        imported.append(name)
        return SimpleNamespace(HELP="A study.", add_arguments=add_arguments, run=run)

    monkeypatch.setattr(command, "import_module", import_module)
    monkeypatch.setattr(command, "STUDIES", {"bases": "bench.bases", "merging": "bench.merging"})
    return imported


def test_a_study_runs_alone(studies: list[str]):
    assert command.main(["bases", "--seeds", "7"]) == 7
    assert studies == ["bench.bases"]


def test_without_a_name_it_is_the_kernels(studies: list[str]):
    assert command.main([]) == 3
    assert studies == [command.KERNELS]


def test_an_unknown_study_is_one_line(studies: list[str], capsys: pytest.CaptureFixture[str]):
    assert command.main(["basis"]) == 2
    assert capsys.readouterr().err == (
        "bench: unknown study basis; did you mean 'bases'? (there are: bases, merging)\n"
    )
    assert studies == []


def test_bad_input_is_one_line(studies: list[str], capsys: pytest.CaptureFixture[str]):
    assert command.main(["bases", "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "bench bases: --seeds should be 1 or more, was 0\n"
