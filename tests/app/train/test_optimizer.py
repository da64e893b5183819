"""Which optimizer a run has: paged or not, the same bits; its memory; killed and resumed."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

import qlora_kernels as qk
from app.train.killing import kill_after_a_checkpoint
from qlora.train import loop
from qlora.train.budget import Budget
from qlora.train.prepare import prepare
from qlora.train.result import describe_end
from qlora.train.resume import find_place
from qlora.train.trainer import train
from qlora_kernels.errors import InputError

RANK = 32  # so that a tenth of the states still holds a few pages
PAGED = {"optimizer": "paged-adamw-8bit", "optimizer_memory": "10%", "rank": RANK}


def tensors(folder: Path) -> dict[str, bytes]:
    """The bits of everything in the last checkpoint."""
    checkpoint = max((folder / "checkpoints").iterdir())
    return {
        f"{path.relative_to(checkpoint)}: {name}": tensor.numpy().tobytes()
        for path in checkpoint.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def unpaged(settings_in, tmp_path_factory) -> Path:
    """A run with 8-bit states that are all in memory."""
    folder: Path = tmp_path_factory.mktemp("unpaged") / "run"
    train(settings_in(folder, optimizer="adamw-8bit", rank=RANK))
    return folder


def test_a_tenth_of_the_memory_gives_the_same_bits(settings, unpaged):
    console = Console(file=io.StringIO(), width=200)
    result = train(settings(**PAGED), console)
    assert tensors(result.folder) == tensors(unpaged)
    stats = result.paging
    assert stats is not None
    assert stats["peak_resident_bytes"] <= stats["state_bytes"] / 10
    assert stats["copies_in"] > 0
    assert "optimizer   AdamW, 8-bit states" in console.file.getvalue()
    assert f"{stats['copies']:,} page copies" in describe_end(result)
    assert {path.name for path in result.folder.iterdir()} == {
        *("adapter", "checkpoints", "curves.png", "metrics.jsonl", "settings.yaml", "tensorboard")
    }


def test_8_bits_are_a_quarter(settings):
    sizes = {}
    for name in ("paged-adamw", "paged-adamw-8bit"):
        made = settings(optimizer=name, rank=RANK, output=settings().folder / name)
        run, _, _ = prepare(made, find_place(made))
        parameters = run.parameters.values()
        sizes[name] = qk.optim.state_bytes(parameters, run.optimizer.settings.bits)
    large = sum(p.numel() for p in parameters if p.numel() >= 4096)
    small = sum(p.numel() for p in parameters if p.numel() < 4096)
    assert sizes["paged-adamw"] == pytest.approx(8 * (large + small), rel=0.01)
    assert sizes["paged-adamw-8bit"] == pytest.approx(2.03 * large + 8 * small, rel=0.01)


def test_32_bit_states_are_paged_too(settings, settings_in, tmp_path):
    whole = train(settings_in(tmp_path / "whole", optimizer="paged-adamw", rank=RANK))
    part = train(settings(optimizer="paged-adamw", optimizer_memory="50KiB", rank=RANK))
    assert tensors(whole.folder) == tensors(part.folder)
    assert whole.paging is not None and whole.paging["copies"] == 0
    assert part.paging is not None and part.paging["peak_resident_bytes"] <= 50 * 1024
    assert "all in memory" in describe_end(whole)


def test_killed_in_the_middle_of_a_paged_run(settings, unpaged):
    """kill -9 from outside, at whatever moment; resumed under another budget."""
    killed = settings(**PAGED, save_every=1)
    kill_after_a_checkpoint(killed, killed.folder.parent / "run.yaml")
    result = train(replace(killed, resume="auto", optimizer_memory="20%"))
    assert (result.ending, result.steps) == ("finished", 8)
    assert tensors(killed.folder) == tensors(unpaged)


def test_a_paged_run_goes_on_without_pages(settings, unpaged, monkeypatch):
    plain = loop.take_step

    def crash(run, state, *rest):
        if state.step == 6:
            raise KeyboardInterrupt
        return plain(run, state, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "take_step", crash)
        train(settings(**PAGED))
    result = train(settings(resume="auto", optimizer="adamw-8bit", rank=RANK))
    assert result.steps == 8 and tensors(result.folder) == tensors(unpaged)


def test_another_optimizer_does_not_go_on(settings):
    train(settings(optimizer="adamw-8bit"))
    with pytest.raises(InputError, match="optimizer should be adamw-8bit, was adamw"):
        train(settings(resume="auto"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10%", 100), ("2.5 %", 25), ("300B", 300), ("2KB", 2000), ("2KiB", 2048), ("1.5gb", 15e8)],
)
def test_amounts_of_memory(text, expected):
    assert Budget.read("memory", text).bytes_of(1000) == expected


@pytest.mark.parametrize("text", ["", "10", "much", "-5%", "0%", "1TB", "IB", "1e3B"])
def test_what_is_no_amount(text):
    with pytest.raises(InputError, match="memory should be an amount of memory such as 512MiB"):
        Budget.read("memory", text)


def test_a_budget_is_for_paged_states(settings):
    with pytest.raises(InputError, match="optimizer_memory should be for a paged optimizer, was f"):
        settings(optimizer_memory="10%")


def test_a_budget_too_small_is_refused_before_anything_is_written(settings):
    made = settings(optimizer="paged-adamw", optimizer_memory="1KiB")
    with pytest.raises(InputError, match="memory_budget should be at least 8320 bytes"):
        train(made)
    assert not made.folder.exists()
