"""Examples that teach only where to stop, counted."""

from qlora.data import Example
from qlora.data.encode import IGNORE
from qlora.doctor.measures.answers import teaches_nothing, unanswered_share

END = 2
ANSWER = Example([1, 5, 6, END], [IGNORE, IGNORE, 6, END], "completion", "a line 1")
ENDING = Example([1, 5, 6, END], [IGNORE, IGNORE, IGNORE, END], "completion", "a line 2")
NOTHING = Example([1, 5, 6], [IGNORE, IGNORE, IGNORE], "completion", "a line 3")
CUT = Example([1, 5, 6], [IGNORE, IGNORE, 6], "completion", "a line 4")


def test_an_answer_is_any_label_but_the_end():
    assert [teaches_nothing(e, END) for e in (ANSWER, ENDING, NOTHING, CUT)] == [
        False,
        True,
        True,
        False,
    ]
    assert not teaches_nothing(ENDING, None)


def test_the_share_is_of_all_examples():
    assert unanswered_share([ANSWER, ENDING, NOTHING, CUT], END) == 0.5
