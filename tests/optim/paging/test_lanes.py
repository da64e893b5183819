import threading
import time

import pytest

from qlora_kernels.optim.paging.lanes import CallerLane, ThreadLane


def test_a_thread_works_in_order_and_beside_the_caller():
    lane, seen, gate = ThreadLane("test"), [], threading.Event()
    lane.submit(gate.wait)
    lane.submit(lambda: seen.append(threading.current_thread().name))
    early = lane.record()
    lane.submit(lambda: seen.append("later"))
    assert (early.done(), seen) == (False, [])
    gate.set()
    lane.record().result()
    assert early.done()
    assert seen == ["test_0", "later"]


def test_lanes_wait_for_each_other():
    first, second, seen = ThreadLane("first"), ThreadLane("second"), []
    first.submit(lambda: (time.sleep(0.05), seen.append("first")))
    second.wait(first.record())
    second.submit(lambda: seen.append("second"))
    CallerLane().wait(second.record())
    assert seen == ["first", "second"]


def test_nothing_is_done_after_a_failure():
    """A page that was not stored must not be taken for one that was."""
    lane, other, seen = ThreadLane("test"), ThreadLane("other"), []

    def fail():
        raise OSError("the disk is broken")

    lane.submit(fail)
    lane.submit(lambda: seen.append(1))
    other.wait(lane.record())
    other.submit(lambda: seen.append(2))
    for each in (lane, other):
        with pytest.raises(OSError, match="the disk is broken"):
            CallerLane().wait(each.record())
    assert seen == []
