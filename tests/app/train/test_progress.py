import io

import pytest
from rich.console import Console

from qlora.train.progress import ScreenProgress, clock
from qlora.train.rows import EvaluationRow, StepRow, WarningRow


def step(number: int) -> StepRow:
    return StepRow(number, number / 10, 2.0, 0.5, 1e-4, 100, 50.0, 2.0, 300 * 2**20)


def shown(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    progress = ScreenProgress(console, steps=30)
    progress.record(EvaluationRow(0, 2.5, 12.18, 0.25, True))
    for number in range(1, 31):
        progress.record(step(number))
    progress.record(WarningRow(30, "gradient norm 47.5"))
    progress.close()
    return console.file.getvalue()


def test_plain_lines_when_it_is_no_terminal():
    lines = shown(terminal=False).splitlines()
    assert (
        lines[0]
        == "validation after step 0  loss 2.5000  perplexity 12.18  exact 25.0%  best so far"
    )
    assert lines[1].startswith(
        "step 1/30  epoch 0.10  loss 2.0000  grad norm 0.5  50 tokens/s  eta "
    )
    assert lines[1].endswith("memory 300 MiB")
    assert lines[2].startswith("step 30/30")  # those between came within seconds
    assert lines[3] == "WARNING  step 30: gradient norm 47.5"
    assert "\x1b" not in "".join(lines)


def test_a_live_line_on_a_terminal():
    text = shown(terminal=True)
    assert "\x1b[2K" in text  # the line is replaced
    assert "WARNING  step 30" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
