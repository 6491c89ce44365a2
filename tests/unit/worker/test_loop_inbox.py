"""Work for a loop's thread is done in order, by one thread at a time, whoever does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from baton.worker.inbox import Inbox

WAIT_S = 30.0


class Loop(threading.Thread):
    """Does what comes, and notes by whom; `inside` proves that nobody else does so meanwhile."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.inbox = Inbox(self.work_off)
        self.done: list[tuple[int, str]] = []
        self.stopping = False
        self._inside = 0

    def work_off(self) -> None:
        self._inside += 1
        assert self._inside == 1
        while (work := self.inbox.pop()) is not None:
            work()
        self._inside -= 1

    def run(self) -> None:
        while not self.stopping:
            self.inbox.wait(WAIT_S)
            self.work_off()

    def note(self, number: int) -> Callable[[], None]:
        return lambda: self.done.append((number, threading.current_thread().name))

    def until_done(self, count: int) -> None:
        give_up = time.monotonic() + WAIT_S
        while len(self.done) < count:
            assert time.monotonic() < give_up, "it was never done"
            time.sleep(0.001)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    loop.start()
    yield loop

    def end() -> None:
        loop.stopping = True

    loop.inbox.post(end)
    loop.join(WAIT_S)


def waiting(loop: Loop) -> None:
    """Until the loop waits: work that is brought then is done by who brings it."""
    give_up = time.monotonic() + WAIT_S
    while True:
        done = len(loop.done)
        loop.inbox.do(loop.note(-1))
        loop.until_done(done + 1)
        if loop.done[-1][1] == threading.current_thread().name:
            loop.done.clear()
            return
        assert time.monotonic() < give_up, "the loop never waits"


def test_posted_work_is_done_by_the_loop(loop: Loop) -> None:
    loop.inbox.post(loop.note(0))
    loop.until_done(1)
    assert loop.done == [(0, loop.name)]


def test_work_is_done_by_who_brings_it_while_the_loop_waits(loop: Loop) -> None:
    waiting(loop)
    loop.inbox.do(loop.note(0))
    assert loop.done == [(0, threading.current_thread().name)]


def test_work_for_a_busy_loop_waits_for_it(loop: Loop) -> None:
    go, busy = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        go.wait(WAIT_S)

    loop.inbox.post(block)
    assert busy.wait(WAIT_S)
    loop.inbox.do(loop.note(0))
    assert not loop.done
    go.set()
    loop.until_done(1)
    assert loop.done == [(0, loop.name)]


def test_loop_that_has_not_begun_leaves_its_work_to_itself() -> None:
    loop = Loop()
    loop.inbox.do(loop.note(0))
    assert not loop.done


def test_work_that_brings_work_does_not_hang(loop: Loop) -> None:
    waiting(loop)
    loop.inbox.do(lambda: loop.inbox.do(loop.note(0)))
    loop.until_done(1)


def test_each_threads_work_is_done_in_its_order(loop: Loop) -> None:
    """Whether posted or done at once, from several threads."""
    num_threads, each = 4, 500

    def bring(thread: int) -> None:
        for i in range(each):
            bring_one = loop.inbox.post if i % 3 == 0 else loop.inbox.do
            bring_one(loop.note(thread * each + i))

    threads = [threading.Thread(target=bring, args=(n,)) for n in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    loop.until_done(num_threads * each)
    numbers = [number for number, _ in loop.done]
    for number in range(num_threads):
        mine = [n for n in numbers if n // each == number]
        assert mine == sorted(mine) and len(mine) == each
