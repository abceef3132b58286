"""Nobody outside may hold a thread of ours for longer than we say."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest

from seg_pipeline.adapters.deadlines import DeadlinePassed, run_promptly, within


def test_what_comes_in_time_is_given_or_raised() -> None:
    assert within(30, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 // 0)


def test_a_time_out_of_the_call_itself_is_its_own() -> None:
    def times_out() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        within(30, times_out)


def test_a_call_that_never_ends_is_left_and_its_thread_ends() -> None:
    """As when a peer sends a byte now and then: the thread wakes, and each time-out begins anew."""
    ended = threading.Event()

    def trickle() -> None:
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    with pytest.raises(DeadlinePassed, match=r"no end within 0\.2 s"):
        within(0.2, trickle)
    assert ended.wait(30)


def test_an_abandoned_call_cannot_go_on_past_an_except_of_its_library() -> None:
    goes_on = threading.Event()

    def stubborn() -> None:
        for _ in range(3):
            try:
                while True:
                    time.sleep(0.01)
            except Exception:
                goes_on.set()

    with pytest.raises(DeadlinePassed):
        within(0.1, stubborn)
    assert not goes_on.wait(0.3)


@pytest.fixture
def mute_resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A resolver that does not answer until it is let go, like one behind a broken network."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> None:
        release.wait(60)
        raise OSError("nobody answered")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    return release.set


def test_a_name_that_is_never_found_does_not_hold_up_the_end(
    mute_resolver: Callable[[], None],
) -> None:
    async def connect() -> None:
        async with asyncio.timeout(0.2):
            await asyncio.get_running_loop().getaddrinfo("app.example", 443)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        run_promptly(connect())
    assert time.monotonic() - began < 30  # the resolver's own time is twice that
    mute_resolver()


def test_threads_work_while_it_runs() -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert run_promptly(main()).startswith("prompt")
