"""The library as it was at a commit, built: build/bases/<commit>, made once.

An archive of the library alone, not a worktree: what measures (bench) is always the tree at hand,
so that both sides are measured alike, and nothing is left behind in .git.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from qlora_kernels.errors import InputError

ROOT = Path(__file__).parents[3]
BASES = ROOT / "build/bases"
PARTS = ("csrc", "qlora_kernels", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Revision:
    """As it was named, and which commit that is."""

    named: str
    commit: str

    @property
    def peer(self) -> str:
        """Its name in tables and records."""
        return f"base {self.commit[:12]}"


def resolve(named: str, root: Path = ROOT) -> Revision:
    """Refuses what names no commit."""
    done = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{named}^{{commit}}")
    if done.returncode:
        reason = done.stderr.decode().strip().splitlines()
        why = f": {reason[0]}" if reason else ""
        raise InputError(
            f"bench: --base should name a commit of this repository, was {named!r}{why}"
        )
    return Revision(named, done.stdout.decode().strip())


def tree_of(revision: Revision, with_cuda: bool = False) -> Path:
    """A folder that holds qlora_kernels with its extension; built unless it was before."""
    folder = BASES / (revision.commit[:12] + "-cuda" * with_cuda)
    if folder.exists():
        return folder
    passing = folder.with_suffix(f".{os.getpid()}")  # whole, or not there
    try:
        _extract(revision, passing)
        _build(revision, passing, with_cuda)
        passing.rename(folder)
    finally:
        shutil.rmtree(passing, ignore_errors=True)
    return folder


def refuse_stale(root: Path = ROOT) -> None:
    """Ours must be what its sources say, too."""
    newest = max((root / "csrc").rglob("*.*"), key=lambda path: path.stat().st_mtime)
    for built in (root / "qlora_kernels").glob("_cpu*.so"):
        if built.stat().st_mtime < newest.stat().st_mtime:
            raise InputError(
                f"bench: {built.name} should be newer than its sources, {newest.relative_to(root)}"
                " is newer: build it again (python setup.py build_ext --inplace)"
            )


def _extract(revision: Revision, folder: Path) -> None:
    done = _git(ROOT, "archive", revision.commit, *PARTS)
    if done.returncode:
        raise InputError(
            f"bench: --base should be a commit with {', '.join(PARTS)}, was {revision.named!r}:"
            f" {done.stderr.decode().strip().splitlines()[-1]}"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _build(revision: Revision, folder: Path, with_cuda: bool) -> None:
    """In place; the CUDA module, which takes minutes, only where it is to be measured."""
    print(f"building {revision.peer} ({revision.named}), once", file=sys.stderr, flush=True)
    variables = os.environ if with_cuda else {**os.environ, "QLORA_CUDA_ARCH": ""}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode:
        last = ((done.stderr + done.stdout).strip().splitlines() or ["no output"])[-1]
        raise InputError(f"bench: --base {revision.named} should build, failed: {last}")


def _git(root: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True)
    except FileNotFoundError:
        raise InputError("bench: --base needs git, which is not installed") from None
