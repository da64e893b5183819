"""Long work on the screen: a bar on a terminal with rich, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qlora.merge.merge import Watch

PLAIN_SECONDS = 10.0  # between two plain lines


@contextmanager
def shown() -> Iterator[Watch]:
    """Yield what `merge_adapters` and `evaluate_matrix` tell; it appears on the error stream."""
    try:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:  # merging itself needs nothing but the library
        yield _plain()
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain()
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def watch(what: str, done: int, count: int) -> None:
            progress.update(task, description=what, completed=done, total=count)

        yield watch


def _plain() -> Watch:
    last = time.monotonic()

    def watch(what: str, done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_SECONDS:
            last = time.monotonic()
            print(f"{what}  {done}/{count}", file=sys.stderr, flush=True)

    return watch
