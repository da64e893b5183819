"""Finished runs of the tiny Llama, to be measured."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.train.conftest import small_run
from qlora.doctor.subject import Subject
from qlora.train.trainer import train


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`run(rank=8)`: the folder of a run of 30 steps, trained once for the same arguments."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}

    def finished(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            output = folder / str(len(made))
            train(
                small_run(output, **{"steps": 30, "evaluate_every": 10, "patience": 0, **changes})
            )
            made[key] = output
        return made[key]

    return finished


@pytest.fixture(scope="session")
def subject(run: Callable[..., Path]) -> Subject:
    """A healthy run, opened; nobody changes it."""
    return Subject.open(run())
