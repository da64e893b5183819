"""doctor.png: this run, a healthy one, and the failure that it resembles."""

from pathlib import Path
from typing import get_args

import pytest

from app.doctor.shapes import HEALTHY, curve, facts, healthy_curves
from qlora.doctor import judge
from qlora.doctor.curves import Curves, curve_facts, series
from qlora.doctor.diagnosis import Cause
from qlora.doctor.facts import by_name
from qlora.doctor.picture import draw, panels_for
from qlora.doctor.references import MOST_SHOWN, references, to_record

CLIMBING = {"training": curve(lambda t: 3 + 5 * t), "learning_rate": curve(lambda t: 0.01 + 0 * t)}


def test_references_are_real_runs_with_a_source():
    known = references()
    assert "healthy" in known and set(known) <= {"healthy", *get_args(Cause)}
    for curves in known.values():
        assert curves.source and len(curves.training) > 20


def test_panels_are_this_run_a_healthy_one_and_the_likeness():
    curves = healthy_curves(**CLIMBING)
    diagnosis = judge(by_name(curve_facts(curves)))
    titles = [panel.title for panel in panels_for(curves, diagnosis)]
    assert titles == ["this run", "a healthy run", "a run with learning-rate-too-high"]
    healthy = judge(by_name(curve_facts(healthy_curves())) | facts(HEALTHY))
    assert len(panels_for(healthy_curves(), healthy)) == 2


@pytest.mark.parametrize(
    "curves",
    [
        healthy_curves(**CLIMBING),
        healthy_curves(gradient_norm=curve(lambda t: 0 * t)),
        Curves("short", series({1: 3.0, 2: 2.0})),
        Curves("nothing", series({1: float("nan"), 2: float("nan")})),
        Curves("zero", series({1: 0.0, 2: 0.0})),
    ],
    ids=["climbing", "no gradient", "short", "nan", "zero"],
)
def test_any_record_can_be_drawn(tmp_path: Path, curves: Curves):
    path = draw(curves, judge(by_name(curve_facts(curves))), tmp_path / "doctor.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_record_is_thinned_to_what_a_panel_shows():
    long = Curves("long", series({step: 1 / step for step in range(1, 1000)}))
    pairs = to_record(long, "made")["training"]
    assert len(pairs) <= MOST_SHOWN + 2 and pairs[-1][0] == 999
