import pytest

from qlora.train.schedule import learning_rate_share


def shares(schedule, steps=10, warmup=0.2):
    return [learning_rate_share(step, steps, warmup, schedule) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_rises_to_the_peak(schedule):
    assert shares(schedule)[:3] == [0.5, 1.0, 1.0]


def test_linear_falls_by_equal_parts():
    assert shares("linear")[2:] == pytest.approx([1 - i / 8 for i in range(8)])


def test_cosine_is_halfway_in_the_middle():
    assert shares("cosine")[6] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_and_never_reaches_zero(schedule):
    after = shares(schedule)[2:]
    assert after == sorted(after, reverse=True)
    assert after[-1] > 0


def test_constant_stays():
    assert set(shares("constant")[1:]) == {1.0}


def test_one_step_trains_at_the_peak():
    assert shares("cosine", steps=1, warmup=0.03) == [1.0]
    assert shares("linear", steps=1, warmup=0.0) == [1.0]
