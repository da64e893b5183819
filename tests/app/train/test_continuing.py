"""--from-adapter and --replay: where a run starts, and what it keeps seeing."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qlora_kernels as qk
from qlora.cli import main
from qlora.data import Example
from qlora.settings import from_sources
from qlora.train import loop
from qlora.train.from_adapter import settings_of
from qlora.train.metrics import read_rows
from qlora.train.order import RowOrder
from qlora.train.prepare import prepare
from qlora.train.replay import Replay
from qlora.train.resume import find_place
from qlora.train.rows import EvaluationRow, to_json
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train
from qlora_kernels.errors import InputError

TIMES = ("seconds", "tokens_per_second", "memory_bytes")


@pytest.fixture(scope="module")
def first(settings_in, tmp_path_factory):
    """A run whose adapter is not the default one, on data that are learned at once."""
    folder = tmp_path_factory.mktemp("first")
    line = {"prompt": "Who art thou?", "completion": "A rose."}
    (folder / "data.jsonl").write_text((json.dumps(line) + "\n") * 40)
    settings = settings_in(
        folder / "run",
        data=folder / "data.jsonl",
        targets=("q_proj", "down_proj"),
        rank_pattern={"q_proj": 2},
        alpha=12.0,
        dora=True,
        patience=0,
    )
    return train(settings)


def evaluations(folder: Path) -> list[EvaluationRow]:
    return [row for row in read_rows(folder / "metrics.jsonl") if isinstance(row, EvaluationRow)]


def test_the_command_takes_rank_and_layers_from_the_adapter(first, settings, tmp_path):
    """And begins where the first run was best, on the same validation split."""
    data = first.folder.parent / "data.jsonl"
    words = {
        **{"model": settings().model, "data": data, "output": tmp_path / "second"},
        **{"from-adapter": first.adapter, "sequence-length": 32, "batch-size": 2, "steps": 2},
        **{"dropout": 0.125, "evaluate-every": 1},
    }
    flags = [text for name, value in words.items() for text in (f"--{name}", str(value))]
    assert main(["train", *flags]) == 0
    written = from_sources(TrainSettings, tmp_path / "second/settings.yaml", {})
    assert (written.alpha, written.dora, written.dropout) == (12.0, True, 0.125)
    assert sorted(written.targets) == ["down_proj", "q_proj"]
    assert written.layers.rank_of("model.layers.0.self_attn.q_proj") == 2
    assert written.layers.rank_of("model.layers.3.mlp.down_proj") == 4
    start = evaluations(tmp_path / "second")[0]
    assert start.step == 0
    assert start.loss == pytest.approx(first.best_loss, rel=1e-6)
    assert first.best_step > 0


def test_what_is_loaded_is_the_adapter_and_dropout_is_the_runs(first, settings):
    made = settings(**settings_of(first.adapter), from_adapter=first.adapter, dropout=0.2)
    run, _, _ = prepare(made, find_place(made))
    saved = load_file(first.adapter / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    layer = run.model.get_submodule(name)
    assert torch.equal(layer.lora_b, saved[f"base_model.model.{name}.lora_B.weight"])
    assert (layer.dropout, layer.dropout_on) == (0.2, "rank")


def test_all_that_an_adapter_fixes_comes_back(tiny, model, tmp_path, tokenizer):
    tokens = tuple(sorted(tokenizer.convert_tokens_to_ids(["a", "e"])))
    config = qk.QLoRAConfig(
        rank=3, alpha=5, rslora=True, targets=["v_proj"], trainable_tokens=tokens, bias="none"
    )
    qk.prepare_model(model, config)
    qk.save_adapter(model, tmp_path / "adapter")
    assert settings_of(tmp_path / "adapter") == {
        **{"rank": 3, "alpha": 5.0, "rank_pattern": None, "alpha_pattern": None},
        **{"rslora": True, "dora": False, "targets": ("v_proj",), "trainable_tokens": tokens},
        **{"modules_to_save": (), "untie": False, "bias": "none"},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_pattern": None}, r"rank of .*\.down_proj should be 4, which .* was 2"),
        ({"alpha": 8.0}, "alpha of .* should be 12.0, which .* has, was 8.0 .left out, it is"),
        ({"dora": False}, "dora of .* should be True, which .* has, was False"),
        ({"targets": ("q_proj",), "exclude": ()}, "which it adapts too: .*down_proj"),
        ({"targets": "all-linear"}, "which it has no adapter for: .* and 17 more"),
        ({"from_adapter": Path("nowhere")}, "nowhere"),
    ],
    ids=["rank", "alpha", "dora", "fewer layers", "more layers", "no folder"],
)
def test_a_mismatch_is_one_sentence(first, settings, changes, message):
    made = settings(**{**settings_of(first.adapter), "from_adapter": first.adapter, **changes})
    with pytest.raises(InputError, match=message) as failure:
        prepare(made, find_place(made))
    assert "\n" not in str(failure.value)


def test_only_adapters_are_continued(first, settings):
    with pytest.raises(InputError, match="method should be lora with from_adapter, was prompt"):
        settings(method="prompt", from_adapter=first.adapter)


@pytest.mark.parametrize("text", ["old.jsonl", "old.jsonl:", ":0.2", "old.jsonl:0", "a:1", "a:x"])
def test_a_share_that_is_none(settings, text):
    with pytest.raises(InputError, match=r"replay should be a data file and a share in \(0, 1\)"):
        settings(replay=text)


def test_a_path_may_have_colons():
    assert Replay.read("C:/old.jsonl:0.25") == Replay(Path("C:/old.jsonl"), 0.25)


def epoch(order: RowOrder, number: int) -> list[int]:
    first = number * order.steps_per_epoch
    return [row for i in range(order.steps_per_epoch) for row in order.rows_of(first + i)]


def test_without_replay_the_order_is_what_it_was():
    """The bits of every run before there was replay depend on it."""
    for number in range(3):
        expected = list(range(11))
        random.Random(f"5/{number}").shuffle(expected)
        assert epoch(RowOrder(11, 4, 5), number) == expected


@pytest.mark.parametrize(("old_rows", "replayed"), [(7, 3), (3, 7), (5, 5)])
def test_each_epoch_draws_its_share_and_all_old_rows_come_round(old_rows, replayed):
    order = RowOrder(11, 4, 0, old_rows, replayed)
    drawn = []
    for number in range(20):
        rows = epoch(order, number)
        assert [row for row in sorted(rows) if row < 11] == list(range(11))
        drawn += [row for row in rows if row >= 11]
        assert len(drawn) == (number + 1) * replayed
    assert set(drawn) == set(range(11, 11 + old_rows))
    counts = Counter(drawn)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert epoch(order, 0) != epoch(replace(order, seed=1), 0)


def examples(count: int) -> list[Example]:
    return [Example([1, 2], [-100, 2], "text", str(i)) for i in range(count)]


@pytest.mark.parametrize(("share", "new"), [(0.2, 100), (0.5, 30), (0.01, 10)])
def test_the_share_is_of_an_epochs_examples(share, new):
    replay = Replay(Path("old"), share)
    old = replay.rows_an_epoch(examples(new), examples(50), old_rows=50)
    assert abs(old / (old + new) - share) <= 1 / new
    rest, held = replay.split(examples(50), new_held=20, seed=0)
    assert len(held) == min(25, round(20 * share / (1 - share)))
    assert {e.source for e in rest} & {e.source for e in held} == set()
    assert len(rest) + len(held) == 50


def replaying(settings, tmp_path: Path, **changes) -> TrainSettings:
    old = tmp_path / "old.jsonl"
    lines = [{"prompt": f"Who art thou {n}?", "completion": "A rose."} for n in range(30)]
    old.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {"replay": f"{old}:0.3", "packing": False, "dropout": 0.1, "patience": 0}
    return settings(**{**values, **changes})


def test_a_run_tells_what_it_replays(settings, tmp_path):
    made = replaying(settings, tmp_path)
    run, _, _ = prepare(made, find_place(made))
    new = run.order.rows
    assert run.order.replayed == round(0.3 / 0.7 * new)
    assert {e.kind for row in run.rows[:new] for e in row} == {"text"}
    assert {e.kind for row in run.rows[new:] for e in row} == {"completion"}
    kinds = Counter(example.kind for row in run.validation for example in row)
    assert kinds["completion"] == round(0.3 / 0.7 * kinds["text"])
    held = {example.source for row in run.validation for example in row}
    assert not held & {e.source for row in run.rows[new:] for e in row}


def test_replay_is_part_of_the_identity_and_resumes_bit_for_bit(
    settings, tmp_path, monkeypatch, first
):
    """Together with --from-adapter and the watch's window."""
    made = replaying(settings, tmp_path, **settings_of(first.adapter))
    made = replace(made, from_adapter=first.adapter)
    train(made)
    cut, plain = replace(made, output=tmp_path / "cut"), loop.take_step

    def take_step(run, state, *rest):
        if state.step == 6:
            raise KeyboardInterrupt
        return plain(run, state, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "take_step", take_step)
        train(cut)
    for changes, message in (
        ({"replay": made.replay.replace(":0.3", ":0.4")}, "replay share should be 0.3, was 0.4"),
        ({"replay": None}, "replay data .digest. should be .*, was None"),
        ({"from_adapter": None}, "starting adapter .digest. should be .*, was None"),
    ):
        with pytest.raises(InputError, match=message):
            train(replace(cut, resume="auto", **changes))
    train(replace(cut, resume="auto"))
    assert rows(made.folder) == rows(cut.folder)
    one, other = (f / "checkpoints/checkpoint-000008" for f in (made.folder, cut.folder))
    states = [json.loads((f / "checkpoint.json").read_text())["state"] for f in (one, other)]
    assert states[0]["watched"] == states[1]["watched"]
    assert len(states[0]["watched"]["losses"]) == 8
    for name in ("optimizer.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def rows(folder: Path) -> list[dict[str, object]]:
    values = [to_json(row) for row in read_rows(folder / "metrics.jsonl")]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in values]
