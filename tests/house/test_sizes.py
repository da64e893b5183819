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
EXCEPTIONS: dict[tuple[str, str], str] = {
    (f"qlora_kernels/compat/bitsandbytes/{file}.py", name): "bitsandbytes' signature"
    for file, name in (
        ("functional/blockwise", "dequantize_blockwise"),
        ("functional/four_bit", "quantize_4bit"),
        ("functional/quant_state", "__init__"),
        ("nn/linear4bit", "__init__"),
        ("nn/params4bit", "__new__"),
        ("optim/adam", "__init__"),
        ("optim/adamw", "__init__"),
    )
}

# Comments, strings and preprocessor lines.
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?m:^[ \t]*#[^\n]*)', re.DOTALL)
TEMPLATE_ARGUMENTS = re.compile(r"<[^<>(){};]*>")
DEFINITION = re.compile(r"\b(\w+)\s*\(([^(){};]*)\)[\w\s:&*>-]*\{")
CONTROL = {"if", "for", "while", "switch", "catch"}


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, lines and parameters of each function; `self` and `cls` are no parameters."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            count = sum(a is not None and a.arg not in ("self", "cls") for a in named)
            if "triton.jit" in map(ast.unparse, node.decorator_list):
                # Device code has no structs: its arguments are pointers, sizes and constants, flat.
                yield node.name, node.end_lineno - node.body[0].lineno + 1, 0
            else:
                yield node.name, node.end_lineno - node.lineno + 1, count


def cpp_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """The same by pattern: a name, a parameter list, and the body up to its closing brace."""
    text = NOT_CODE.sub(lambda match: "\n" * match[0].count("\n"), text)
    while TEMPLATE_ARGUMENTS.search(text):
        text = TEMPLATE_ARGUMENTS.sub("", text)
    for found in DEFINITION.finditer(text):
        if found[1] in CONTROL:
            continue
        depth, end = 1, found.end()
        while depth and end < len(text):
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        count = found[2].count(",") + 1 if found[2].strip() else 0
        yield found[1], text.count("\n", found.start(), end) + 1, count


def long_functions(file: Path, text: str) -> set[tuple[str, str]]:
    functions = cpp_functions if file.suffix in LANGUAGES["C++"] else python_functions
    return {
        (str(file), name)
        for name, lines, parameters in functions(text)
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
    flat = ", ".join(f"a{i}" for i in range(2 * MAX_PARAMETERS))
    assert long_functions(python, f"@triton.jit\ndef f({flat}): ...") == set()
    body = "  if (x) {\n  }\n" * MAX_FUNCTION
    assert long_functions(cpp, f"int f(int x) {{\n{body}}}\n") == {("a.cpp", "f")}
    assert long_functions(cpp, "int f(int x) {\n}\n" * MAX_FUNCTION) == set()
    assert long_functions(cpp, "int f(T<A, B> a, int b, int c, int d, int e, int g) {}") == set()
    assert long_functions(cpp, "int f(int a, int b, int c, int d,\nint e, int g, int h) {}")
