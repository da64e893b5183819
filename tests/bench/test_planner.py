"""The planner's sum is the measured peak of a process above its base."""

import json
import sys
from pathlib import Path

import pytest

from bench.planner.cases import UNSEEN, Case, all_cases
from bench.planner.command import NEAR, RECORD, compared
from qlora.plan.run import forecast_of
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError

FIXTURE = Path(__file__).parents[1] / "fixtures/tiny_shakespeare_llama"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak that Linux keeps in /proc")
@pytest.mark.parametrize("shape", UNSEEN)
def test_the_sum_is_the_measured_peak(shape: str):
    row = compared(Case(shape, "qlora"))
    assert abs(row["off"]) <= NEAR, row


def test_the_record_holds_every_case_within_the_law():
    rows = json.loads(RECORD.read_text())["rows"]
    names = {(row["shape"], row["method"], row["checkpointing"], row["passes"]) for row in rows}
    assert names == {(c.shape, c.method, c.checkpointing, c.passes) for c in all_cases()}
    assert all(abs(row["predicted_bytes"] / row["measured_bytes"] - 1) <= NEAR for row in rows)


def test_a_run_is_planned_by_its_settings():
    config = json.loads((FIXTURE / "config.json").read_text())
    settings = TrainSettings(model=FIXTURE, data=Path("a.jsonl"), rank=8, dora=True, batch_size=3)
    forecast = forecast_of(settings, config, dtype="float32", device="cpu")
    assert forecast.method == "dora"
    assert (forecast.settings.rank, forecast.settings.batch_size) == (8, 3)
    plain = TrainSettings(model=FIXTURE, data=Path("a.jsonl"), rank=8, format="none")
    assert forecast_of(plain, config, dtype="float32", device="cpu").method == "lora"


@pytest.mark.parametrize(
    "setting", [{"bias": "all"}, {"method": "prompt"}, {"rank_pattern": {"q": 4}}]
)
def test_what_the_sum_has_no_term_for_is_not_predicted(setting):
    config = json.loads((FIXTURE / "config.json").read_text())
    settings = TrainSettings(model=FIXTURE, data=Path("a.jsonl"), **setting)
    with pytest.raises(InputError, match=f"plan: {next(iter(setting))} should be"):
        forecast_of(settings, config, dtype="float32", device="cpu")
