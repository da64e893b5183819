from qlora.train.state import TrainState
from qlora.train.stopping import exhausted


def test_patience():
    assert not exhausted(2, patience=3)
    assert exhausted(3, patience=3)
    assert not exhausted(100, patience=0)


def test_the_best_evaluation_resets_the_count():
    state = TrainState()
    bests = [state.note_evaluation(loss) for loss in (3.0, 2.0, 2.0, 2.5, 1.9)]
    assert bests == [True, True, False, False, True]
    assert (state.best_loss, state.evaluations_without_gain) == (1.9, 0)
