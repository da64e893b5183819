import sys

from rich.console import Console
from rich.progress import Progress


class Bar:
    """A bar of tensors on a terminal, nothing elsewhere."""

    def __init__(self, work: str) -> None:
        """`work` is shown until the first tensor is done."""
        self._work = work

    def __enter__(self) -> "Bar":
        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(self._work, total=None)
        self._bar.start()
        return self

    def __call__(self, done: int, total: int, name: str) -> None:
        """Show that `name` is done."""
        self._bar.update(self._task, completed=done, total=total, description=name)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
