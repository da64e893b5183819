from qlora.train.state import TrainState
from qlora.train.stopping import ENOUGH_HISTORY, HISTORY, exhausted, norm_jump


def test_patience():
    assert not exhausted(2, patience=3)
    assert exhausted(3, patience=3)
    assert not exhausted(100, patience=0)


def test_a_jump_to_ten_times_the_median_warns():
    history = [1.0, 1.2, 1.4] * 10
    assert norm_jump(history, 11.9) is None
    warning = norm_jump(history, 47.5)
    assert warning is not None
    assert "gradient norm 47.5 is 39.6 times its running median 1.2" in warning


def test_too_little_history_says_nothing():
    assert norm_jump([1.0] * (ENOUGH_HISTORY - 1), 1000.0) is None
    assert norm_jump([1.0] * ENOUGH_HISTORY, 1000.0)


def test_the_history_forgets():
    state = TrainState()
    for norm in range(HISTORY + 5):
        state.note_norm(float(norm))
    assert state.gradient_norms == [float(norm) for norm in range(5, HISTORY + 5)]


def test_the_best_evaluation_resets_the_count():
    state = TrainState()
    bests = [state.note_evaluation(loss) for loss in (3.0, 2.0, 2.0, 2.5, 1.9)]
    assert bests == [True, True, False, False, True]
    assert (state.best_loss, state.evaluations_without_gain) == (1.9, 0)
