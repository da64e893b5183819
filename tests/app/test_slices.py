"""`qlora evaluate --slice`: differences, their intervals, and what is said about them."""

import json
import math
import statistics
from pathlib import Path

import numpy
import pytest

import qlora_kernels as qk
from qlora.cli import main
from qlora.evaluate import EvaluateSettings, evaluate_slices
from qlora.evaluation import Evaluation, evaluate_examples
from qlora.slices import NORMAL_95, Comparison, Interval, findings, paired_difference
from qlora_kernels.errors import InputError


@pytest.fixture
def slices(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for name, answer in (("old", "Nay"), ("new", "A rose by any other name.")):
        paths[name] = tmp_path / f"{name}.jsonl"
        lines = [{"prompt": f"Is {n} it?", "completion": answer} for n in range(8)]
        paths[name].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


@pytest.fixture
def adapter(model, tmp_path: Path) -> Path:
    import torch

    qk.prepare_model(model, qk.QLoRAConfig(rank=2))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in qk.nn.adapter_parameters(model).items():
        if name.endswith("lora_b"):
            parameter.data.normal_(std=0.5, generator=generator)
    qk.save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_equal_sizes_give_the_textbook_interval():
    """mean +- 1.96 sd / sqrt(n) of the differences."""
    before, after = [1.0, 2.0, 4.0, 3.0], [1.5, 2.0, 5.0, 2.5]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    found = paired_difference(before, after, [1, 1, 1, 1])
    assert found is not None
    assert found.value == pytest.approx(statistics.mean(changes))
    reach = NORMAL_95 * statistics.stdev(changes) / math.sqrt(4)
    assert (found.low, found.high) == (
        pytest.approx(found.value - reach),
        pytest.approx(found.value + reach),
    )


def test_the_interval_covers_the_truth_95_times_of_100():
    """Examples of different length, whose loss depends on it; within 4 standard errors."""
    generator = numpy.random.default_rng(0)
    draws, count, hits = 2000, 200, 0
    truth = 0.1 + 0.01 * (1 + 2 * 15.5 + 15.5**2 + (30**2 - 1) / 12) / 16.5
    for _ in range(draws):
        sizes = generator.integers(1, 31, count) + 1
        changes = 0.1 * sizes + 0.01 * sizes * sizes + sizes * generator.standard_normal(count)
        found = paired_difference([0.0] * count, changes.tolist(), sizes.tolist())
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert abs(hits / draws - 0.95) < 4 * math.sqrt(0.95 * 0.05 / draws) + 0.01  # 200 are not many


def test_one_example_has_no_interval_and_none_no_difference():
    assert paired_difference([1.0], [3.0], [2]) == Interval(1.0, None, None)
    assert paired_difference([], [], []) is None


def test_the_parts_add_up_to_the_whole(model, tokenizer, slices):
    from qlora.data import pack, read_examples

    rows = pack(read_examples(slices["new"], tokenizer, 64), 64)
    whole, parts = evaluate_examples(model, rows)
    assert len(parts) == whole.num_examples == 8
    assert sum(part.num_tokens for part in parts) == whole.num_tokens
    total = sum(part.loss for part in parts)
    assert total / whole.num_tokens == pytest.approx(whole.loss, rel=1e-12)
    assert whole.accuracy == sum(bool(part.exact) for part in parts) / 8


def test_each_slice_is_what_it_is_alone(tiny, slices, adapter):
    both = evaluate_slices(EvaluateSettings(tiny, adapter=adapter, slice=slices))
    assert list(both) == ["old", "new"]
    for name, path in slices.items():
        [alone] = evaluate_slices(EvaluateSettings(tiny, path, adapter)).values()
        assert alone == both[name]
        assert alone.adapter is not None and alone.loss is not None
        assert alone.loss.value == pytest.approx(alone.adapter.loss - alone.base.loss)


def words(tiny: Path, slices: dict[str, Path], *more: object) -> list[str]:
    named = [w for name, path in slices.items() for w in ("--slice", f"{name}={path}")]
    return list(map(str, ["evaluate", "--model", tiny, *named, *more]))


def test_the_table(tiny, slices, adapter, capsys):
    assert main(words(tiny, slices, "--adapter", adapter)) == 0
    out = capsys.readouterr().out
    for word in ("old", "new", "loss", "perplexity", "exact match", "difference", "±"):
        assert word in out
    assert "(nf4) on old.jsonl: 8 examples" in out


def test_json(tiny, slices, adapter, capsys):
    assert main(words(tiny, slices, "--adapter", adapter, "--json")) == 0
    values = json.loads(capsys.readouterr().out)["slices"]
    assert set(values) == {"old", "new"}
    assert set(values["old"]) == {"base", "adapter", "loss", "accuracy"}
    assert set(values["old"]["loss"]) == {"value", "low", "high"}


def test_without_an_adapter_the_base_alone(tiny, slices, capsys):
    assert main(words(tiny, slices)) == 0
    assert "difference" not in capsys.readouterr().out


def test_whack_a_mole_is_named():
    side = Evaluation(2.0, 7.4, None, 50, 500)
    worse = Comparison(side, side, Interval(0.5, 0.4, 0.6))
    better = Comparison(side, side, Interval(-1.0, -1.2, -0.8))
    slight = Comparison(side, side, Interval(0.002, 0.001, 0.003))
    unclear = Comparison(side, side, Interval(0.1, -0.1, 0.3))
    files = {"old": "a.jsonl", "new": "b.jsonl"}
    [text] = findings({"old": worse, "new": better}, files)
    assert text.startswith(
        "old got worse while new got better: loss +0.500 (95 % interval +0.400 to +0.600);"
    )
    assert "--replay" in text
    assert findings({"old": unclear, "new": better}, files) == []
    assert findings({"old": slight, "new": better}, files) == []
    assert findings({"old": worse, "new": unclear}, files) == []


def test_data_or_slices(tiny, slices):
    with pytest.raises(InputError, match="--data or --slice should be given, was neither"):
        EvaluateSettings(tiny)
    with pytest.raises(InputError, match="--data or --slice should be given, was both"):
        EvaluateSettings(tiny, slices["old"], slice=slices)


def test_against_another_adapter(tiny, slices, adapter, capsys):
    """It takes the base's place: against itself nothing differs."""
    alone = evaluate_slices(EvaluateSettings(tiny, adapter=adapter, slice=slices))
    both = EvaluateSettings(tiny, adapter=adapter, slice=slices, against=adapter)
    for name, found in evaluate_slices(both).items():
        assert found.base == found.adapter == alone[name].adapter
        assert found.loss == Interval(0.0, 0.0, 0.0)
    assert main(words(tiny, slices, "--adapter", adapter, "--against", adapter)) == 0
    assert "before" in capsys.readouterr().out
    with pytest.raises(InputError, match="--adapter should be given beside --against, was not"):
        EvaluateSettings(tiny, slice=slices, against=adapter)
