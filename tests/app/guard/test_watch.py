"""The watch as a pure function: series of losses and norms in, verdicts out."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora.guard.watch.judge import QUIET, judge
from qlora.guard.watch.verdict import Continue, Stop, Verdict, Warn
from qlora.guard.watch.watched import AWAY, HELD, START, Watched
from qlora.guard.watch.window import ENOUGH, NORMAL, WINDOW, robust_z
from qlora.train.state import TrainState


def verdicts(losses: Sequence[float], norms: Sequence[float] | None = None) -> list[Verdict]:
    """Judge a series as the trainer does; it ends with the first Stop."""
    watched, found = Watched(), list[Verdict]()
    pairs = zip(losses, norms or [1.0] * len(losses), strict=True)
    for step, (loss, norm) in enumerate(pairs, start=1):
        reading = watched.read(loss, norm)
        found.append(judge(watched, reading, step))
        match found[-1]:
            case Stop():
                return found
            case Warn(cause=cause):
                watched.warned_at[cause] = step
        watched.note(reading)
    return found


def noise(count: int, around: float = 3.0, spread: float = 0.2, seed: int = 0) -> list[float]:
    return (around + spread * numpy.random.default_rng(seed).standard_normal(count)).tolist()


@given(st.lists(st.floats(-1e3, 1e3), min_size=ENOUGH, max_size=WINDOW), st.floats(-1e3, 1e3))
def test_z_is_its_formula(window: list[float], value: float):
    """Against numpy's medians; shifting all numbers by the same amount changes nothing."""
    median = float(numpy.median(window))
    mad = float(numpy.median(numpy.abs(numpy.array(window) - median)))
    z = robust_z(window, value)
    assert z is not None
    if NORMAL * mad >= 1e-3 * abs(median) and mad > 0:
        assert z == pytest.approx((value - median) / (NORMAL * mad), rel=1e-12)
    assert math.isfinite(z)
    assert robust_z(window, median) == 0.0


def test_z_of_normal_numbers_is_the_usual_one():
    window = noise(100_000, around=7.0, spread=0.5)
    assert robust_z(window, 8.0) == pytest.approx(2.0, abs=0.02)


def test_one_outlier_moves_nothing_and_few_numbers_say_nothing():
    window = noise(ENOUGH)
    clean, dirty = robust_z(window, 3.5), robust_z([*window[1:], 1e6], 3.5)
    assert clean is not None and dirty is not None
    assert abs(dirty - clean) < abs(clean)
    assert robust_z(window[1:], 1e9) is None


def test_a_jump_to_ten_times_the_median_warns():
    norms = [1.0, 1.2, 1.4] * 10
    quiet = verdicts([3.0] * 31, [*norms, 11.9])
    assert set(map(type, quiet)) == {Continue}
    [*before, last] = verdicts([3.0] * 31, [*norms, 47.5])
    assert set(map(type, before)) == {Continue}
    assert last == Warn(
        "gradient-norm-jump", "gradient norm 47.5 is 39.6 times its running median 1.2"
    )


def test_too_short_a_history_says_nothing():
    assert verdicts([3.0] * ENOUGH, [*[1.0] * (ENOUGH - 1), 1e3])[-1] == Continue()
    assert isinstance(verdicts([3.0] * (ENOUGH + 1), [*[1.0] * ENOUGH, 1e3])[-1], Warn)


def test_a_warning_is_not_repeated_at_once():
    found = verdicts([3.0] * 90, [*[1.0] * 40, *[50.0] * 50])
    warned = [step for step, verdict in enumerate(found) if isinstance(verdict, Warn)]
    assert warned == [40, 40 + QUIET]  # then the median is where the norms are


def test_a_loss_spike_of_thirty_times_warns_and_does_not_stop():
    losses = [*noise(60), 90.0, *noise(60, seed=1)]
    found = verdicts(losses)
    [(place, warning)] = [(i, v) for i, v in enumerate(found) if v != Continue()]
    assert place == 60
    assert isinstance(warning, Warn)
    assert warning.cause == "loss-jump"
    assert "robust deviations above its running median" in warning.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["loss", "gradient norm"])
def test_what_is_not_finite_stops_at_once(value: float, which: str):
    loss, norm = (value, 1.0) if which == "loss" else (3.0, value)
    verdict = judge(Watched(), Watched().read(loss, norm), 1)
    assert verdict == Stop("not-finite", f"{which} should be finite, was {value}")


@pytest.mark.parametrize("healthy_steps", [START, 30, 400])
def test_a_loss_that_leaves_for_good_stops(healthy_steps: int):
    """After 50 steps; `steps_lost` leads back to the last step before it left."""
    found = verdicts([*noise(healthy_steps), *noise(200, around=7.5)])
    assert len(found) == healthy_steps + HELD
    stop = found[-1]
    assert isinstance(stop, Stop)
    assert stop.cause == "loss-away"
    assert len(found) - 1 - stop.steps_lost == healthy_steps


def test_what_was_learned_and_lost_again_stops_too():
    """Back to where it began, and stays: the level is what the loss had held since."""
    falling = [3.0 - 2.5 * min(1.0, i / 100) for i in range(200)]
    assert isinstance(verdicts([*falling, *noise(100)])[-1], Stop)


def test_an_excursion_that_comes_back_does_not_stop():
    losses = [*noise(100), *noise(HELD - 1, around=9.0), *noise(100)]
    assert not any(isinstance(verdict, Stop) for verdict in verdicts(losses))


@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_are_left_alone(seed: int):
    """No learning at all, with every kind of noise; learning; a restart that rises a little."""
    generator = numpy.random.default_rng(seed)
    count = 3000
    series = {
        "normal": 3 + generator.standard_normal(count),
        "heavy tails": 3 + 0.3 * generator.standard_t(2, count),
        "lognormal": generator.lognormal(0.5, 1.0, count),
        "two kinds of rows": numpy.where(generator.random(count) < 0.7, 4.0, 0.1),
        "learning": 3 * numpy.exp(-numpy.arange(count) / 300) + generator.lognormal(-2, 1, count),
        "restart": 0.2 + 0.3 * numpy.minimum(1, numpy.arange(count) / 200),
    }
    for name, losses in series.items():
        found = verdicts(losses.tolist())
        assert not any(isinstance(verdict, Stop) for verdict in found), name
        assert len(found) == count


def test_the_chance_that_is_told_is_the_chance():
    """1 / C(start + held, start), of shuffled numbers, with sizes for which it is not too rare."""
    generator = numpy.random.default_rng(0)
    start, held, draws = 2, 6, 40_000
    hits = 0
    for _ in range(draws):
        numbers = generator.permutation(start + held)
        hits += numbers[start:].min() > numbers[:start].max()
    chance = 1 / math.comb(start + held, start)
    error = math.sqrt(chance * (1 - chance) / draws)
    assert abs(hits / draws - chance) < 4 * error
    assert f"{1 / math.comb(START + HELD, START):.0e}" == "3e-07"
    assert f"{1 / math.comb(2 * HELD, HELD):.0e}" == "1e-29"


def test_the_level_is_the_start_then_what_was_held():
    watched = Watched()
    for loss in (3.0, 2.0, 4.0, 3.5, 2.5):
        assert watched.level is None
        watched.note(watched.read(loss, 1.0))
    assert watched.level == 4.0
    for number in range(HELD):
        watched.note(watched.read(2.0 - number / HELD, 1.0))
    assert watched.level == 2.0
    assert watched.is_away(2.0 + AWAY + 1e-9)
    assert not watched.is_away(2.0 + AWAY - 1e-9)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=150))
@settings(max_examples=30)
def test_what_is_remembered_survives_a_checkpoint(losses: list[float]):
    state = TrainState()
    for loss in losses:
        state.watched.note(state.watched.read(loss, 2 * loss))
    assert TrainState.from_json(json.loads(json.dumps(asdict(state)))) == state
    assert state.watched.losses == losses[-WINDOW:]
    assert statistics.median(state.watched.gradient_norms) == pytest.approx(
        2 * statistics.median(losses[-WINDOW:])
    )
