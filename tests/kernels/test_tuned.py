"""Plans measured on a machine: kept, never measured in a capture, never trusted when corrupt."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlora_kernels.gpu import tuned
from qlora_kernels.gpu.tuned import TUNE

TIMES = {"skinny": 3.0, "tile 32": 1.0, "dense": 2.0}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("QLORA_CACHE_DIR", str(tmp_path))
    tuned.plans.cache_clear()
    yield tmp_path
    tuned.plans.cache_clear()


def again() -> None:
    """As another process sees it."""
    tuned.plans.cache_clear()


def never(name: str) -> None:
    raise AssertionError(f"measured {name}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows what the candidates themselves say."""
    now: list[float] = []
    monkeypatch.setattr(tuned, "milliseconds", lambda call: call() or now.pop())
    return now


def test_nothing_is_measured_unless_it_is_asked_for(folder: Path):
    assert tuned.tuned("forward m=8", list(TIMES), never) is None
    assert not list(folder.iterdir())


def test_what_was_measured_is_kept(clock: list[float], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TUNE, "1")

    def run(name: str) -> None:
        clock.append(TIMES[name])

    assert tuned.tuned("forward m=8", list(TIMES), run) == "tile 32"
    assert json.loads(tuned.file().read_text()) == {"forward m=8": "tile 32"}
    again()
    monkeypatch.delenv(TUNE)
    assert tuned.tuned("forward m=8", list(TIMES), never) == "tile 32"
    assert tuned.tuned("forward m=9", list(TIMES), never) is None
    assert tuned.tuned("forward m=8", ["skinny"], never) is None  # a plan that is gone


def test_nothing_is_measured_in_a_capture(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TUNE, "1")
    monkeypatch.setattr(tuned, "capturing", lambda: True)
    assert tuned.tuned("forward m=8", list(TIMES), never) is None
    assert not list(folder.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"forward m=8": 3}', "\xff"])
def test_a_corrupt_file_is_one_warning(text: str):
    tuned.file().write_text(text, encoding="latin-1")
    with pytest.warns(UserWarning, match=r"plans-\w+\.json is not read") as told:
        for _ in range(2):
            assert tuned.tuned("forward m=8", list(TIMES), never) is None
    assert len(told) == 1


def test_a_file_is_of_one_machine_and_of_these_kernels(monkeypatch: pytest.MonkeyPatch):
    first = tuned.file()
    for change in ("_sources", "triton_version"):
        tuned._key.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(tuned, change, lambda *_: "other")
            assert tuned.file() != first
    tuned._key.cache_clear()
    assert tuned.file() == first


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert tuned.cache_folder() == tmp_path
    monkeypatch.delenv("QLORA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tuned.cache_folder() == tmp_path / "xdg/qlora_kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuned.cache_folder() == Path.home() / ".cache/qlora_kernels"
