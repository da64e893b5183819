from pathlib import Path

import numpy
import pytest
from matplotlib.image import imread

from qlora.train.plot import VALIDATION, WARNING, draw_curves, smoothed
from qlora.train.rows import EvaluationRow, StepRow, WarningRow


def steps(norms: list[float]) -> list[StepRow]:
    return [
        StepRow(i, i / 10, 3 - i / 20, norm, 1e-4, 100 * i, 50.0, 2.0 * i, 10**6)
        for i, norm in enumerate(norms, start=1)
    ]


def has_color(path: Path, color: str) -> bool:
    wanted = numpy.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((abs(imread(path)[..., :3] - wanted) < 0.02).all(-1).any())


def test_a_run_with_validation_and_a_warning(tmp_path: Path):
    evaluations = [EvaluationRow(s, 3 - s / 20, 9.9, None, True) for s in (0, 10, 20)]
    rows = [*steps([1.0] * 19 + [47.5]), *evaluations, WarningRow(20, "a jump")]
    path = draw_curves(rows, tmp_path / "curves.png", "a run", max_norm=1.0)
    assert imread(path).shape[:2] == (975, 1350)
    assert has_color(path, VALIDATION)
    assert has_color(path, WARNING)


def test_one_step_is_enough(tmp_path: Path):
    path = draw_curves(steps([0.0]), tmp_path / "curves.png", "short")
    assert imread(path).std() > 0
    assert not has_color(path, VALIDATION)


def test_smoothing_is_a_mean_of_neighbours():
    assert smoothed([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]  # too short to smooth
    long = [float(i % 2) for i in range(100)]
    assert smoothed(long)[50] == pytest.approx(0.4)  # 2 of 5
    assert smoothed(long)[0] == pytest.approx(1 / 3)
