"""The repository as the checks see it: every file that .gitignore does not name."""

from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
IGNORED = (".git", *(ROOT / ".gitignore").read_text().split())
LANGUAGES = {"Python": (".py", ".pyi"), "C++": (".h", ".cpp", ".inl", ".cu", ".cuh")}


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if any(fnmatch(entry.name, pattern) for pattern in IGNORED):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry.relative_to(ROOT)


@cache
def files() -> tuple[Path, ...]:
    """All files, relative to the root. Does not need git: a source archive is checked too."""
    return tuple(_walk(ROOT))


def code(language: str) -> list[Path]:
    """What we write by hand in one language; fixtures are material, not code."""
    return [f for f in files() if f.suffix in LANGUAGES[language] and "fixtures" not in f.parts]


def read(file: Path) -> str:
    return (ROOT / file).read_text()
