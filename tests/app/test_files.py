"""Files and folders are whole or absent, whatever happens while they are written."""

import os

import pytest

from qlora_kernels import files
from qlora_kernels.errors import InputError
from qlora_kernels.files import replace_folder, whole_folder, write_atomically, write_text


def test_a_file_is_written_and_its_folders_made(tmp_path):
    path = write_text(tmp_path / "a" / "b.txt", "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def fails(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_atomically(tmp_path / "a.txt", fails)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_replaces_the_old_one(tmp_path):
    for content in ("old", "new"):
        with whole_folder(tmp_path / "adapter") as temporary:
            (temporary / f"{content}.txt").write_text(content)
            assert not (tmp_path / "adapter" / f"{content}.txt").exists()
    assert os.listdir(tmp_path / "adapter") == ["new.txt"]
    assert os.listdir(tmp_path) == ["adapter"]


def test_without_an_exchange_of_names_the_folder_is_replaced_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    test_a_folder_replaces_the_old_one(tmp_path)


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    with whole_folder(tmp_path / "adapter") as temporary:
        (temporary / "old.txt").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "adapter") as temporary:
        (temporary / "half.txt").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(tmp_path / "adapter") == ["old.txt"]


def test_replace_folder_with_nested_folders(tmp_path):
    (tmp_path / "t" / "inner").mkdir(parents=True)
    (tmp_path / "t" / "inner" / "x").touch()
    replace_folder(tmp_path / "t", tmp_path / "final")
    assert (tmp_path / "final" / "inner" / "x").exists()


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    message = r"write: .*file should be a folder, was a file"
    with pytest.raises(InputError, match=message), whole_folder(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match=r"write: .* should be a file, was a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(
        InputError, match=r"write: cannot write .*file/x: (Not a directory|File ex)"
    ):
        write_text(tmp_path / "file" / "x", "x")


def test_results_are_readable_by_whoever_may_read_the_folder(tmp_path):
    tmp_path.chmod(0o755)
    with whole_folder(tmp_path / "adapter"):
        pass
    assert (tmp_path / "adapter").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
