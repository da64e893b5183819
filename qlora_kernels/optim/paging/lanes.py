"""Lanes: each runs its work in order, beside the others; events order lanes among themselves.

The pager speaks to three: one that computes, one that fetches pages, one that stores them. On the
CPU the caller computes and one thread copies. `cuda_lanes` has those of a GPU.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

Work = Callable[[], object]


class Event(Protocol):
    """The work of a lane up to some point."""

    def done(self) -> bool:
        """Whether all of it is done; does not wait."""

    def result(self) -> object:
        """Wait for it on the host; raises what the work raised."""


class Lane(Protocol):
    """Work in order."""

    def submit(self, work: Work) -> None:
        """Do this after all that was submitted before, and not necessarily now."""

    def record(self) -> Event:
        """All that was submitted so far."""

    def wait(self, event: Event) -> None:
        """Let what is submitted from now on come after an event of another lane."""


class CallerLane:
    """The caller's own thread: work is done when `submit` returns."""

    def submit(self, work: Work) -> None:
        """Do it."""
        work()

    def record(self) -> Event:
        """Nothing is ever left to wait for."""
        return _PAST

    def wait(self, event: Event) -> None:
        """Block."""
        event.result()


class ThreadLane:
    """A thread, which ends when the lane is no longer used.

    After work that raised no more work is done, and each event raises the same error.
    """

    def __init__(self, name: str) -> None:
        """Starts no thread before there is work."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._last: Event = _PAST
        self._failure: list[BaseException] = []

    def submit(self, work: Work) -> None:
        """Queue it."""
        self._last = self._executor.submit(_run, work, self._failure)

    def record(self) -> Event:
        """The last in the queue: one thread does one after the other."""
        return self._last

    def wait(self, event: Event) -> None:
        """Let the thread wait, unless there is nothing to wait for."""
        if event is not _PAST:
            self.submit(event.result)


def _run(work: Work, failure: list[BaseException]) -> None:
    if failure:
        raise failure[0]
    try:
        work()
    except BaseException as error:
        failure.append(error)
        raise


def _past() -> Future[Any]:
    event: Future[Any] = Future()
    event.set_result(None)
    return event


_PAST: Event = _past()
