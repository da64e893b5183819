"""What is measured by which lines, and what the table says of it."""

import pytest
from matplotlib.image import imread

from bench.train_step.agreement import Agreement
from bench.train_step.command import add_arguments, problem_of, slug
from bench.train_step.energy import _rapl, spent
from bench.train_step.lines import Line, lines
from bench.train_step.measure import Measured, Rounds, judged
from bench.train_step.problem import TINY, Problem, batches, stack_config
from bench.train_step.record import page, plot, record_of
from bench.train_step.worker import Worker, environment
from qlora.cli import Parser
from qlora_kernels.errors import InputError

PROBLEM = Problem(str(TINY), rows=2, tokens=48)


def measured(line: Line, seconds: float, losses: list[float]) -> Measured:
    made = Measured(line, tokens_per_step=96)
    made.note({"losses": losses[:1], "peak_bytes": 1, "trained": 7}, timed=False)
    turn = {"seconds": [seconds, 2 * seconds, seconds], "losses": losses[1:], "cpu_seconds": 1.0}
    made.note({**turn, "joules": None, "peak_bytes": 2**21, "trained": 7}, timed=True)
    return made


@pytest.fixture
def record() -> dict:
    found = {
        line.name: measured(line, seconds, losses)
        for line, seconds, losses in (
            (Line("qlora"), 0.5, [3.0, 2.5]),
            (Line("ours"), 0.25, [3.0, 2.5001]),
            (Line("qlora", "raised"), 0.125, [3.0, 2.6]),
            (Line("ours", "raised"), 0.0625, [3.0, 2.5]),
            (Line("full", "raised"), 0.25, [3.0, 2.9]),
        )
    }
    agreed = judged(found, "float32")
    assert {(a.name, a.twin, a.holds) for a in agreed} == {
        ("ours", "qlora", True),
        ("qlora raised", "qlora", False),
        ("ours raised", "qlora", True),
    }
    return record_of(PROBLEM, Rounds(1, 3, 1), found, agreed)


def test_the_table_has_speeds_of_lines_that_agree_only(record: dict):
    text = page(record)
    assert "| 192.0 | 192.0 to 192.0 | 2.00 | 2 | not readable | 7 | 2.5000 |" in text
    assert "| 384.0 | 384.0 to 384.0 | 1.00 |" in text
    assert "| 384.0 | 384.0 to 384.0 | 4.00 |" in text  # of ours under the same allocator
    [refused] = [line for line in text.splitlines() if "| refused |" in line]
    assert "| raised |" in refused and refused.count("refused") == 5
    [raised] = [row for row in record["rows"] if row["line"] == "qlora raised"]
    assert "seconds" not in raised


def test_the_record_names_the_command_that_makes_it_again(record: dict):
    assert record["command"] == (
        f"python -m bench train-step --model {TINY} --rows 2 --tokens 48 --rounds 1 --steps 3"
    )
    parser = Parser("bench", "", "")
    add_arguments(parser)
    again = problem_of(parser.parse_strictly(record["command"].split()[4:]))
    assert again == PROBLEM


def test_the_picture_is_drawn(record: dict, tmp_path):
    assert imread(plot(record, tmp_path / "a.png")).ndim == 3


def test_every_peer_is_measured_with_the_raised_allocator_and_by_its_defaults():
    eager = Problem(str(TINY), attention="eager")
    names = [line.name for line in lines(("full", "lora", "qlora", "ours"), eager)]
    assert {"full raised", "lora raised", "qlora raised", "ours raised"} <= set(names)
    assert {"lora own-default", "qlora own-default", "qlora-guide own-default"} <= set(names)
    trainers = Problem(str(TINY), checkpointing=True)
    assert not any(line.own_default for line in lines(("lora", "qlora"), trainers))


def test_rows_are_the_seeds(tmp_path):
    first, again = (next(batches(PROBLEM)).tolist() for _ in range(2))
    assert first == again and len(first) == 2 and {len(row) for row in first} == {48}
    with pytest.raises(InputError, match="--tokens should be at most"):
        next(batches(Problem(str(TINY), tokens=10**6)))


def test_a_stack_has_the_shape_of_its_model():
    config = stack_config(Problem("llama-8b", layers=2))
    sizes = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    assert sizes == (4096, 14336, 2)
    assert slug(Problem("llama-8b", layers=2)) == "llama-8b-x2-4x128"
    assert slug(Problem("llama-8b", attention="eager")) == "llama-8b-x1-4x128-eager"


def test_threads_wait_as_those_of_users_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    variables = environment(2, "raised")
    assert "OMP_WAIT_POLICY" not in variables and variables["OMP_NUM_THREADS"] == "2"
    assert "MALLOC_TRIM_THRESHOLD_" in variables


def test_a_process_takes_steps_and_says_why_it_died(one_thread: None):
    with Worker(Line("ours-16"), PROBLEM, threads=1) as worker:
        assert worker.loaded["losses"] == []
        turn = worker.take(2)
        assert len(turn["losses"]) == len(turn["seconds"]) == 2 and turn["peak_bytes"] > 2**20
        with pytest.raises(InputError, match=r"ours-16 should take steps, died: .*ValueError"):
            worker.take("none")  # type: ignore[arg-type]


def test_joules_are_differences_of_a_counter_that_may_be_closed(tmp_path):
    assert _rapl(tmp_path) is None
    for name, value in (("intel-rapl:0", 5), ("intel-rapl:0:1", 3), ("intel-rapl:1", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value * 10**6}\n")
    assert _rapl(tmp_path) == 7.0
    assert (spent(1.0, 3.0), spent(3.0, 1.0), spent(None, 1.0)) == (2.0, None, None)


def test_agreement_is_told():
    assert Agreement("a", "b", 0.001, 0.002).describe() == (
        "a agrees with b: losses off by 1.0e-03 at most (bound 0.002)"
    )
