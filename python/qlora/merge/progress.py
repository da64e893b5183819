"""Long work on the screen: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qlora.merge.merge import Watch
from qlora.train.progress import PLAIN_SECONDS


@contextmanager
def shown() -> Iterator[Watch]:
    """Yield what `merge_adapters` and `evaluate_matrix` tell their progress to; it is shown on the
    error stream.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def watch(what: str, done: int, count: int) -> None:
            progress.update(task, description=what, completed=done, total=count)

        yield watch


def _plain(console: Console) -> Watch:
    last = time.monotonic()

    def watch(what: str, done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_SECONDS:
            last = time.monotonic()
            console.print(f"{what}  {done}/{count}", soft_wrap=True)

    return watch
