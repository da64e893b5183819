"""What was timed side by side decides which GPU backend the dispatcher takes first."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.gpu.goals import GOALS
from bench.gpu.measurements import MEASUREMENTS
from bench.gpu.preferences import preferences_told
from qlora_kernels import dispatch
from qlora_kernels.dispatch import Room
from qlora_kernels.gpu import preferred

RECORD = {"op": "quantize", "backend": "cuda", "against": "triton", "ratio": 2.0, "case": {}}


def written(folder: Path, *changes: dict) -> Path:
    whole = folder / "kernels.jsonl"
    whole.write_text("".join(json.dumps(RECORD | change) + "\n" for change in changes))
    return whole


def test_the_faster_goes_first_and_what_was_known_of_others_stays(tmp_path: Path):
    file = tmp_path / "preferred.json"
    file.write_text(json.dumps({"sm_80": {"quantize": "triton"}, "sm_90": {"dequantize": "cuda"}}))
    whole = written(
        tmp_path,
        {"ratio": 3.0},
        {"ratio": 0.75},  # faster by the geometric mean
        {"op": "adamw8bit", "ratio": 0.5},
        {"op": "dequantize", "against": "torch", "ratio": 0.1},  # not side by side
        {"op": "dequantize", "backend": "triton", "against": "torch"},
    )
    assert list(preferences_told(whole, "sm_90", file)) == [
        "quantize: cuda goes first, 1.50 times as fast",
        "adamw8bit: triton goes first, 2.00 times as fast",
    ]
    assert preferred.read(file) == {
        "sm_80": {"quantize": "triton"},
        "sm_90": {"dequantize": "cuda", "quantize": "cuda", "adamw_step": "triton"},
    }


def test_without_such_times_the_order_stays(tmp_path: Path):
    file = tmp_path / "preferred.json"
    for architecture, whole in (("sm_90", tmp_path / "none"), (None, written(tmp_path, {}))):
        assert "the order stays" in list(preferences_told(whole, architecture, file))[-1]
    assert not file.exists()
    assert preferred.read(file) == {}


def kernel(backend: str) -> SimpleNamespace:
    return SimpleNamespace(BACKEND=backend, refuses=lambda: None)


@pytest.mark.parametrize(
    "first, chosen", [(None, "triton"), ("triton", "triton"), ("cuda", "cuda")], ids=str
)
def test_the_dispatcher_reads_it(monkeypatch: pytest.MonkeyPatch, first: str | None, chosen: str):
    """Of the two for GPUs; what takes other devices keeps its place."""
    rooms = {"any": "cpu", "of the GPU": None}
    for name, cpu in rooms.items():
        refusals = {"cpu": lambda cpu=cpu: None if cpu else "no", "reference": lambda: None}
        on_gpu = {"triton": lambda: None, "cuda": lambda: None}
        monkeypatch.setattr(dispatch, "_AVAILABLE", refusals | on_gpu)
        monkeypatch.setattr(dispatch, "first_choice", lambda op: first)
        room = Room(name, *map(kernel, ("cpu", "triton", "cuda", "reference")))
        assert (cpu or chosen) == room.choose().BACKEND


def test_a_machine_without_gpu_prefers_nothing():
    assert preferred.first_choice("quantize") is None


def test_every_goal_of_the_cuda_backend_has_a_measurement_beside_triton():
    timed = {m.op for m in MEASUREMENTS if m.backend == "cuda" and "triton" in m.against}
    assert timed >= {goal.op for goal in GOALS if goal.backend == "cuda"} | {"dora_column_norm"}
