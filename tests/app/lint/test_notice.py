import pytest

from qlora.lint.notice import Notice, describe, quoted, share


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 4, "1 of 4 (25%)"),
        (4, 4, "4 of 4 (100%)"),
        (3, 1200, "3 of 1,200 (0.2%)"),
        (1, 100_000, "1 of 100,000 (0.001%)"),
        (99_999, 100_000, "99,999 of 100,000 (over 99.9%)"),
        (997, 1000, "997 of 1,000 (99.7%)"),
    ],
)
def test_a_share_is_never_nothing_nor_all_unless_it_is(part: int, whole: int, text: str):
    assert share(part, whole) == text


def test_a_notice_says_what_evidence_and_fix():
    notice = Notice("leakage", "3 of 9 rows leak", ("line 1 = line 7",), "take them out")
    text = "leakage: 3 of 9 rows leak\n    line 1 = line 7\n  -> take them out"
    assert describe([notice, notice]) == f"{text}\n{text}"


def test_quotations_are_short_and_on_one_line():
    assert quoted("To be\n or  not") == '"To be or not"'
    assert len(quoted("x" * 99)) == 62
