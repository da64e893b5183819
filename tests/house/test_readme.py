"""What README and CONTRIBUTING say is what the repository has; the example runs as written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from house.tree import files, read
from qlora.cli import COMMANDS

README = read(Path("README.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [text for language, text in BLOCK.findall(README) if language == "python"]
ROOMS = Path("qlora_kernels/ops")
BACKENDS = {
    "reference": "reference.py",
    "cpu": "native_kernel.py",
    "triton": "triton_kernel.py",
    "cuda": "cuda_kernel.py",
}
UNTIMED = "not measured on GPU"
NOT_MAPPED = (ROOMS, Path("tests"), Path("bench"))  # the op table lists the rooms; the rest mirrors


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def mapped_folders(tree: str) -> set[str]:
    """The paths that an indented listing names; a line is `folder/   what it is`."""
    paths, trail = set(), []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        trail[depth:] = [line.split()[0].rstrip("/")]
        paths.add("/".join(trail))
    return paths


def real_folders() -> set[str]:
    every = {folder for file in files() for folder in file.parents} - {Path("."), Path("python")}
    visible = {folder for folder in every if not folder.parts[0].startswith(".")}
    return {str(f) for f in visible if not any(leaf in f.parents for leaf in NOT_MAPPED)}


def timed_on_gpu() -> set[tuple[str, str]]:
    """(room, backend) of the committed records of GPUs."""
    rooms = {"adamw8bit": "adamw", "dora_linear": "qlora_linear"}
    found = set()
    for file in files():
        if file.match("bench/results/**/*.jsonl"):
            for line in read(file).splitlines():
                record = json.loads(line)
                if record.get("settings", {}).get("device") == "cuda":
                    found.add((rooms.get(record["op"], record["op"]), record["backend"]))
    return found


def cell(room: Path, backend: str, timed: set[tuple[str, str]]) -> str:
    if room / BACKENDS[backend] not in files():
        return ""
    on_gpu = backend in ("triton", "cuda")
    return UNTIMED if on_gpu and (room.name, backend) not in timed else "yes"


def op_table() -> list[str]:
    timed = timed_on_gpu()
    rows = [f"| op | {' | '.join(BACKENDS)} |", f"|---{'|:-:' * len(BACKENDS)}|"]
    for room in sorted({file.parent for file in files() if file.match(f"{ROOMS}/*/op.py")}):
        has = [cell(room, backend, timed) for backend in BACKENDS]
        rows.append(f"| `{room.name}` | {' | '.join(has)} |")
    return rows


def test_the_two_commands_come_first():
    assert BLOCK.search(README)[2].split("\n") == ["make demo", "make test", ""]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run_as_written(example: str, tmp_path: Path):
    command = [sys.executable, "-W", "error", "-c", example]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_first_example_is_ten_lines():
    assert len(EXAMPLES[0].splitlines()) == 10


def test_the_tree_is_the_repository():
    tree = BLOCK.search(section(README, "The house"))[2]
    assert mapped_folders(tree) == real_folders()


def test_a_missing_folder_is_found():
    tree = "csrc/   C++\n  cpu/   kernels\ntests/   tests\n"
    assert mapped_folders(tree) == {"csrc", "csrc/cpu", "tests"}
    assert mapped_folders(tree) != real_folders()


def test_the_op_table_is_the_rooms():
    lines = section(README, "Ops and backends").splitlines()
    assert [line for line in lines if line.startswith("|")] == op_table()


def test_the_commands_are_those_of_the_program():
    lines = section(README, "The command").splitlines()
    expected = [f"| `qlora {name}` | {help_line} |" for name, (_, help_line) in COMMANDS.items()]
    assert [line for line in lines if line.startswith("| `qlora ")] == expected


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_named_targets_and_paths_exist(document: str):
    """Every `make target` is in the Makefile; every `folder/file.ext` is in the repository."""
    text = read(Path(document))
    targets = set(re.findall(r"^([a-z-]+):", read(Path("Makefile")), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)`", text)) <= targets
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w-]+\.\w+)`", text))
    assert named <= {str(file) for file in files()}


def test_contributing_is_two_pages():
    lines = read(Path("CONTRIBUTING.md")).splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 100
