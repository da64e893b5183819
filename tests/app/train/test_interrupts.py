import os
import signal
import threading

import pytest

from qlora.train.interrupts import Interrupts


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_flag_and_the_second_one_ends(number):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert interrupts.number is None
        send(number)
        assert interrupts.number == number
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert signal.getsignal(number) is before


def test_droppable_work_is_cut_short():
    done = []
    with Interrupts() as interrupts:
        with interrupts.droppable():
            send(signal.SIGTERM)
            done.append("never")
        assert interrupts.number == signal.SIGTERM
    assert not done


def test_other_threads_install_nothing():
    handlers = []

    def work() -> None:
        with Interrupts():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
