"""Ctrl-C and SIGTERM as a flag, so that a run ends between two steps with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal came while work was done that can be dropped."""


class Interrupts:
    """`with Interrupts() as interrupts:` sets `interrupts.number` at the first signal.

    A second one raises KeyboardInterrupt at once. Outside the main thread, where Python delivers
    no signals, nothing is installed.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._droppable = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Work that a signal cuts short: what is within raises nothing outside."""
        self._droppable = True
        try:
            yield
        except Interrupted:
            pass
        finally:
            self._droppable = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._droppable:
            raise Interrupted

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
