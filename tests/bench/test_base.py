"""`--base REV`: both commits are measured alike, and what cannot be is told in one line."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bench.kernels import base
from bench.kernels.base import process, tree
from bench.kernels.base.process import Process
from bench.kernels.base.tree import ROOT, Revision, refuse_stale, resolve, tree_of
from bench.kernels.case import Case
from bench.kernels.environment import _MARK, wanted
from qlora_kernels.errors import InputError

REVISION = Revision("HEAD~3", "0123456789abcdef")
CASE = Case("dequantize", "64x128", 64, 128, 0, "fp32")


@pytest.fixture(autouse=True)
def kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "BASES", tmp_path / "bases")


def library(folder: Path, code: str | None = None) -> Path:
    """A tree with our library, or with one that is `code`."""
    folder.mkdir()
    if code is None:
        (folder / "qlora_kernels").symlink_to(ROOT / "qlora_kernels")
    else:
        (folder / "qlora_kernels").mkdir()
        (folder / "qlora_kernels/__init__.py").write_text(code)
    return folder


def test_both_sides_are_checked_and_sampled(tmp_path: Path):
    made = base.start(REVISION, library(tmp_path / "tree"), "reference", "cpu")
    try:
        for side in (made.ours, made.theirs):
            assert side.prepare(CASE, 2) == "passed"
            assert side.sample() > 0
        with pytest.raises(RuntimeError, match=r"ModuleNotFoundError: .*no_such_op"):
            made.theirs.prepare(Case("no_such_op", "8x8", 8, 8, 0, "fp32"), 1)
    finally:
        made.end()
    assert made.revision.peer == "base 0123456789ab"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_a_side_has_all_processors_though_this_thread_is_bound_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = os.sched_getaffinity(0)
    code = "import os; raise ImportError(f'on {sorted(os.sched_getaffinity(0))}')"
    monkeypatch.setenv(_MARK, wanted(2, "default")[_MARK])
    os.sched_setaffinity(0, {max(before)})
    try:
        side = process._process(library(tmp_path / "tree", code), "reference", "cpu")
        assert os.sched_getaffinity(0) == {max(before)}
        with pytest.raises(RuntimeError, match=re.escape(f"on {sorted(before)}")):
            side.prepare(CASE, 1)
        side.end()
    finally:
        os.sched_setaffinity(0, before)


def test_a_library_that_does_not_load_says_why(tmp_path: Path):
    old = library(tmp_path / "tree", "raise ImportError('too old')")
    side: Process = process._process(old, "reference", "cpu")
    with pytest.raises(RuntimeError, match="its process ended: ImportError: too old"):
        side.prepare(CASE, 1)
    side.end()


def test_a_commit_is_found_or_refused_in_one_line(tmp_path: Path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert len(resolve("HEAD", tmp_path).commit) == 40
    with pytest.raises(InputError, match=r"--base should name a commit .*, was 'HEAD~9'"):
        resolve("HEAD~9", tmp_path)


def test_a_build_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    def extracted(revision: Revision, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "setup.py").write_text("raise SystemExit('g++ is not installed')")

    monkeypatch.setattr(tree, "_extract", extracted)
    with pytest.raises(InputError, match="HEAD~3 should build, failed: g\\+\\+ is not installed"):
        tree_of(REVISION)
    assert list(tree.BASES.iterdir()) == []


def test_a_tree_is_built_once(monkeypatch: pytest.MonkeyPatch):
    built: list[Path] = []
    monkeypatch.setattr(tree, "_extract", lambda revision, folder: folder.mkdir(parents=True))
    monkeypatch.setattr(tree, "_build", lambda revision, folder, with_cuda: built.append(folder))
    assert tree_of(REVISION) == tree_of(REVISION) == tree.BASES / "0123456789ab"
    assert tree_of(REVISION, with_cuda=True).name == "0123456789ab-cuda"
    assert len(built) == 2


def test_a_stale_extension_is_not_measured(tmp_path: Path):
    for folder, name, age in (("csrc", "a.cpp", 1), ("qlora_kernels", "_cpu.so", 0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
        os.utime(tmp_path / folder / name, (age, age))
    with pytest.raises(InputError, match=r"_cpu.so should be newer than its sources, csrc/a.cpp"):
        refuse_stale(tmp_path)
