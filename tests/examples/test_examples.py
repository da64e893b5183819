"""Each script of docs/examples runs, goes on where it stopped, and writes adapters only."""

import os
import runpy
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"
TINY = ROOT / "tests/fixtures/tiny_shakespeare_llama"
LINES = 39
LOOPS = {"plain_loop": "last", "accelerate_loop": "adapter"}  # and where its adapter lies
STOPPED = {"last_epoch < 3": "last_epoch < 2"}
TRAINERS = ("hf_trainer", "trl_sft")
ELSEWHERE = ("ddp", "bitsandbytes_script")  # below, and in tests/compat
PLUGGED_IN = ("peft_adapters", "transformers_quantizer", "bitsandbytes_checkpoint")  # integrations

# What other people's packages warn of when they are used as they say.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys) -> Run:
    """`run("plain_loop", "out", {old: new})`: what the script prints, with `old` in it replaced."""
    text = tmp_path / "poems.txt"
    poems = (ROOT / "tests/fixtures/sonnets.txt").read_text().split("\n\n")
    text.write_text("\n\n".join(poems[:5]))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def script(name: str, out: str, changes: dict[str, str] | None = None) -> str:
        source = (EXAMPLES / f"{name}.py").read_text()
        for old, new in (changes or {}).items():
            assert old in source
            source = source.replace(old, new)
        own = tmp_path / f"{name}-{os.getpid()}.py"  # two processes at once read none half-written
        own.write_text(source)
        arguments = [f"{name}.py", str(TINY), str(text), str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", arguments)
        AcceleratorState._reset_state(reset_partial_state=True)  # of whoever ran in this process
        torch.manual_seed(0)
        capsys.readouterr()
        runpy.run_path(str(own), run_name="__main__")
        return capsys.readouterr().out

    return script


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(left: Path, right: Path) -> bool:
    a, b = adapter(left), adapter(right)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def holds_no_base(folder: Path) -> bool:
    """Every tensor file is an adapter, and all others together are smaller than the packed base.

    An optimizer's states are twice the adapter, which is as large as this tiny base.
    """
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                assert all(".lora_" in key for key in tensors.keys())  # noqa: SIM118
    states = ("optimizer.pt", "optimizer.bin", "run.pt")
    rest = [f for f in files if f.suffix != ".safetensors" and f.name not in states]
    packed = (TINY / "model.safetensors").stat().st_size // 4
    return max(file.stat().st_size for file in rest) < packed // 2


def test_each_is_under_forty_lines():
    lengths = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    assert lengths and {name: n for name, n in lengths.items() if n > LINES} == {}


def test_the_page_shows_each_as_it_is():
    page = (ROOT / "docs/ecosystem.md").read_text()
    shown = [
        file.name for file in EXAMPLES.glob("*.py") if f"```python\n{file.read_text()}```" in page
    ]
    assert sorted(shown) == sorted(file.name for file in EXAMPLES.glob("*.py"))


def test_each_is_tested_here():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {
        *LOOPS,
        *TRAINERS,
        *ELSEWHERE,
        *PLUGGED_IN,
    }


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_goes_on_where_it_stopped(run: Run, tmp_path: Path, name: str):
    assert run(name, "whole").count("epoch ") == 3
    assert run(name, "parts", STOPPED).count("epoch ") == 2
    assert run(name, "parts").count("epoch ") == 1
    assert same(tmp_path / "whole" / LOOPS[name], tmp_path / "parts" / LOOPS[name])
    assert holds_no_base(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_stops_early(run: Run, name: str):
    """Without learning no epoch is better than the first."""
    changes = {"lr=1e-3": "lr=0.0", "last_epoch < 3": "last_epoch < 9"}
    assert run(name, "out", changes).count("epoch ") == 3


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_goes_on_where_it_stopped(run: Run, tmp_path: Path, name: str):
    assert "tokens/s" in run(name, "out")
    assert holds_no_base(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    *_, last = sorted((tmp_path / "out").glob("checkpoint-*"), key=lambda f: int(f.name[11:]))
    shutil.rmtree(last)
    run(name, "out")
    assert same(tmp_path / "before", tmp_path / "out")
    assert same(tmp_path / "before" / last.name, last)


def in_process(rank: int, port: int, call: Callable[[], object]) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in where.items()})
    try:
        call()
    except Exception:
        traceback.print_exc(file=sys.__stderr__)  # pytest has taken the other
        raise


def test_two_processes_go_on_where_they_stopped(run: Run, tmp_path: Path):
    def in_two(*arguments: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        context = get_context("fork")
        both = [
            context.Process(target=in_process, args=(rank, port, lambda: run("ddp", *arguments)))
            for rank in (0, 1)
        ]
        for process in both:
            process.start()
        for process in both:
            process.join(300)
        assert [process.exitcode for process in both] == [0, 0]

    in_two("whole")
    in_two("parts", STOPPED)
    in_two("parts")
    assert same(tmp_path / "whole/last", tmp_path / "parts/last")
    assert holds_no_base(tmp_path / "whole")
