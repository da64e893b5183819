"""Small runs of the trainer on the tiny Llama and fourteen sonnets (public domain)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora.train.settings import TrainSettings

FIXTURES = Path(__file__).parents[2] / "fixtures"

Settings = Callable[..., TrainSettings]


def small_run(output: Path, **changes: Any) -> TrainSettings:
    """A run of 8 short steps, with what is said changed."""
    values: dict[str, Any] = {
        "model": FIXTURES / "tiny_shakespeare_llama",
        "data": FIXTURES / "sonnets.txt",
        "output": output,
        "sequence_length": 32,
        "batch_size": 2,
        "steps": 8,
        "rank": 4,
        "learning_rate": 5e-3,
        "evaluate_every": 4,
        "save_every": 4,
    }
    return TrainSettings(**{**values, **changes})


@pytest.fixture(scope="session")
def settings_in() -> Callable[..., TrainSettings]:
    """`settings_in(folder, rank=8)`: settings of a small run."""
    return small_run


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """`settings(rank=8)`: settings of a small run of this test's own."""
    return lambda **changes: small_run(**{"output": tmp_path / "run", **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny Llama gains nothing from more, and on a busy machine waits for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
