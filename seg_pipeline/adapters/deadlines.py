"""Limits in seconds to calls whose other side may say nothing, or a byte a second.

A client's time-outs count from one read to the next, so a peer that trickles holds them for ever.
None of them covers the look-up of a name.
"""

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlinePassed(TimeoutError):
    """The call did not return in time."""


class _Abandoned(BaseException):
    """Ends a thread that nobody waits for. `except Exception` in a library does not catch it."""


_left_behind: set[threading.Thread] = set()


def within(seconds: float, call: Callable[[], T]) -> T:
    """Returns or raises what the call does; raises DeadlinePassed if it takes longer.

    The call has a thread of its own. After the deadline the thread gets an exception. That ends it
    and its connections as soon as it wakes: at the next byte, or at its client's own time-out. In a
    destructor Python prints that exception and goes on. The next call of `within` therefore raises
    it again.
    """
    for left in [*_left_behind]:
        _interrupt(left)
    future: Future[T] = Future()
    thread = threading.Thread(
        target=_run, args=(future, call), name="within a deadline", daemon=True
    )
    thread.start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # the call's own
            raise
        _left_behind.add(thread)
        _interrupt(thread)
        raise DeadlinePassed(f"no end within {seconds:g} s.") from None


def run_promptly(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, except that it does not wait for threads.

    `asyncio.run` waits for the look-up of a name, which no time-out of asyncio ends.
    """
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_NotWaitedFor(thread_name_prefix="prompt"))
        return runner.run(main)


class _NotWaitedFor(ThreadPoolExecutor):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def _run(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except _Abandoned:
        pass
    except BaseException as error:
        future.set_exception(error)


def _interrupt(thread: threading.Thread) -> None:
    """Raises _Abandoned where the thread next executes Python (PyThreadState_SetAsyncExc)."""
    if not thread.is_alive() or thread.ident is None:
        _left_behind.discard(thread)
        return
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(_Abandoned)
    )
