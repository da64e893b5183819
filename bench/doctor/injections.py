"""What goes wrong: in the data (the first three) or in the program (the rest)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from random import Random
from unittest.mock import patch

from bench.doctor.tasks import Row, Rows, verdicts
from qlora.train import prepare
from qlora.train.order import RowOrder
from qlora.train.settings import TrainSettings

MASKED = 0.95  # share of the rows whose template puts the answer into the prompt
POISON_PLACE = 0.5  # share of the run after which the poisoned batch comes
GARBAGE_CHARACTERS = 60
LAST_LAYER = 3


def mask_answers(rows: Rows, settings: TrainSettings) -> Rows:
    """A template that closes the prompt behind the answer: only the end of text is learned.

    Some rows are right, so that nothing refuses them and the loss falls as it should.
    """
    random = Random(f"mask/{settings.seed}")

    def masked(row: Row) -> Row:
        wrong = random.random() < MASKED
        return Row(row.prompt + row.completion, "") if wrong else row

    return Rows([masked(r) for r in rows.train], [masked(r) for r in rows.validation], rows.exam)


def drift(rows: Rows, settings: TrainSettings) -> Rows:
    """Validation and exam are of another time: other words, another way to ask, other rules."""
    later = verdicts(settings.seed + 1, 0)

    def moved(some: list[Row]) -> list[Row]:
        return [Row(f"Tell me now, is it so that {r.prompt}", r.completion) for r in some]

    return replace(rows, validation=moved(later.validation), exam=moved(later.exam))


def poison(rows: Rows, settings: TrainSettings) -> Rows:
    """All rows of one step are garbage: what a broken file or a wrong decoder leaves."""
    assert settings.steps is not None
    random = Random(f"poison/{settings.seed}")
    order = RowOrder(len(rows.train), settings.batch_size, settings.seed)
    train = list(rows.train)
    for place in order.rows_of(int(POISON_PLACE * settings.steps)):
        letters = [chr(random.randrange(0x80, 0x2000)) for _ in range(GARBAGE_CHARACTERS)]
        train[place] = Row("".join(letters[:2]), "".join(letters[2:]))
    return replace(rows, train=train)


@contextmanager
def untouched(leaves_out: Callable[[str], bool]) -> Iterator[None]:
    """The optimizer never steps the parameters whose name `leaves_out` says.

    Their gradients are there, as a check before the first step sees; a hook takes them away from
    each step, as a script with wrong parameter groups or a callback that freezes would.
    """
    build = prepare.build_optimizer

    def build_with_hook(settings, parameters, page_file):  # type: ignore[no-untyped-def]
        optimizer = build(settings, parameters, page_file)
        frozen = [p for name, p in parameters.items() if leaves_out(name)]
        assert 0 < len(frozen) < len(parameters)

        def drop(*_: object) -> None:
            for parameter in frozen:
                parameter.grad = None

        optimizer.register_step_pre_hook(drop)
        return optimizer

    with patch.object(prepare, "build_optimizer", build_with_hook):
        yield


def freeze_factors() -> AbstractContextManager[None]:
    """B stays 0, so the adapters never do anything."""
    return untouched(lambda name: ".lora_b" in name.lower())


def freeze_all_but_last() -> AbstractContextManager[None]:
    """Only the last decoder layer of the fixture learns."""
    return untouched(lambda name: f".layers.{LAST_LAYER}." not in name)
