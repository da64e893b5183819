"""Small by law: files, functions and parameter lists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

from house.tree import LANGUAGES, code, read

MAX_FILE, MAX_P90, MAX_MEDIAN = 400, 250, 100  # lines
MAX_FUNCTION, MAX_PARAMETERS = 60, 6

# What is longer than the law, by file and function, and why it must be.
EXCEPTIONS: dict[tuple[str, str], str] = {}

CONTROL = re.compile(r"\b(if|for|while|switch|do|else|catch)\b")
OPENING = re.compile(r"\)[\w\s:<>&*-]*\{$")  # of a function's or a lambda's body
NOT_CODE = re.compile(r'//.*|"(?:\\.|[^"\\])*"')


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, lines and parameters of each function; `self` and `cls` are no parameters."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            count = sum(a is not None and a.arg not in ("self", "cls") for a in named)
            yield node.name, node.end_lineno - node.lineno + 1, count


def cpp_functions(text: str) -> Iterator[tuple[str, int]]:
    """Opening line and length of each function body, found by its braces."""
    lines = [NOT_CODE.sub("", line).rstrip() for line in text.splitlines()]
    for start, line in enumerate(lines):
        if not OPENING.search(line) or CONTROL.search(line):
            continue
        depth = 0
        for end in range(start, len(lines)):
            depth += lines[end].count("{") - lines[end].count("}")
            if depth <= 0:
                yield line.strip(), end - start + 1
                break


def long_functions(file: Path, text: str) -> set[tuple[str, str]]:
    if file.suffix in LANGUAGES["C++"]:
        return {(str(file), name) for name, lines in cpp_functions(text) if lines > MAX_FUNCTION}
    return {
        (str(file), name)
        for name, lines, parameters in python_functions(text)
        if lines > MAX_FUNCTION or parameters > MAX_PARAMETERS
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_small(language: str):
    lines = {str(file): len(read(file).splitlines()) for file in code(language)}
    lines = {file: count for file, count in lines.items() if count}
    assert not {file: count for file, count in lines.items() if count > MAX_FILE}
    assert quantiles(lines.values(), n=10)[-1] <= MAX_P90
    assert median(lines.values()) <= MAX_MEDIAN


def test_functions_are_small():
    sources = [file for language in LANGUAGES for file in code(language)]
    found = set().union(*(long_functions(file, read(file)) for file in sources))
    assert found - EXCEPTIONS.keys() == set(), "split them, or give a reason in EXCEPTIONS"
    assert EXCEPTIONS.keys() - found == set(), "these obey the law now: take them out"


def test_a_long_function_is_found():
    python, cpp = Path("a.py"), Path("a.cpp")
    assert long_functions(python, "def f():\n" + "    x = 1\n" * MAX_FUNCTION) == {("a.py", "f")}
    assert long_functions(python, "def f(self, a, b, /, c, *d, e, **g): ...") == set()
    assert long_functions(python, "def f(self, a, b, /, c, *d, e, f, **g): ...") == {("a.py", "f")}
    body = "  if (x) {\n  }\n" * MAX_FUNCTION
    assert long_functions(cpp, f"int f(int x) {{\n{body}}}\n") == {("a.cpp", "int f(int x) {")}
    assert long_functions(cpp, "int f(int x) {\n}\n" * MAX_FUNCTION) == set()
