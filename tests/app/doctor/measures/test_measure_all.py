"""Everything at once, on every kind of run that training makes."""

import json
import time

import pytest
import torch

from qlora import models
from qlora.doctor.facts import KINDS
from qlora.doctor.measures import measure_all
from qlora.doctor.subject import Subject

SHARES = {
    *("captured_gradient", "captured_gradient_start", "captured_by_chance", "capturable_gradient"),
    *("untargeted_gradient", "untargeted_capturable", "effective_rank", "stable_rank"),
    *("unchanged_parameters", "calibration_error_training", "supervised_share", "unknown_script"),
}


def test_a_run_in_bf16_is_measured_whole(run, monkeypatch):
    """As processors with bf16 load it, under autocast; emulated elsewhere."""
    in_float32, failures = measure_all(Subject.open(run()))
    assert failures == []
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.bfloat16)
    facts, failures = measure_all(Subject.open(run()))
    assert failures == []
    assert [fact.name for fact in facts] == [fact.name for fact in in_float32]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dora": True, "rslora": True},
        {"targets": ("q_proj", "embed_tokens", "lm_head"), "untie": True},
        {"targets": ("v_proj",), "modules_to_save": ("model.norm",)},
        {"trainable_tokens": (5, 7), "rank_pattern": {"v_proj": 9}},
        {"format": "int8", "dropout": 0.3, "packing": False, "gradient_checkpointing": True},
    ],
    ids=lambda changes: " ".join(changes) or "plain",
)
def test_every_kind_of_run_is_measured_whole(run, changes, tmp_path):
    recent = tmp_path / "recent.jsonl"
    recent.write_text("\n".join(json.dumps({"text": f"Ware {n} zu {n} Taler"}) for n in range(9)))
    subject = Subject.open(run(**changes, steps=6), recent=recent)
    start = time.process_time()
    facts, failures = measure_all(subject)
    assert time.process_time() - start < 10
    assert failures == []
    names = [fact.name for fact in facts]
    assert len(names) == len(set(names)) and set(names) <= KINDS.keys()
    for fact in facts:
        assert fact.detail, fact.name
        if fact.name in SHARES:
            assert 0 <= fact.value <= 1, fact
        if fact.low is not None:
            assert fact.low <= fact.high, fact
    expected = {name for name in KINDS if name.startswith(("drift_", "calibration_", "forgetting"))}
    assert expected <= set(names)


def test_the_same_run_gives_the_same_facts(run):
    first, second = (measure_all(Subject.open(run()))[0] for _ in range(2))
    assert first == second


def test_tokens_alone_have_no_rank_but_a_gap(run):
    """Rows of tokens and no adapter on a linear layer: what needs one says so."""
    subject = Subject.open(run(targets=("embed_tokens",), untie=True, steps=6))
    facts, failures = measure_all(subject)
    assert {"gap_learned", "forgetting", "quantization_error"} <= {fact.name for fact in facts}
    failed = "ranks of the updates could not be measured: "
    failed += "the run should have adapters on linear layers, has none"
    assert failed in failures
