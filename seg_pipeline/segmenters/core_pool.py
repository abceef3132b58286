"""Runs independent steps of a network side by side, each on its own core.

A network's operators share their work among all cores, and wait for one another after each. Where
an operator takes less than a millisecond, that wait is a large part of the time. Cores that sleep
meanwhile wake late. Cores that spin (see `segmenters`) take time from other processes. Independent
steps need not wait: each keeps one core from beginning to end.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """As many lanes as torch has threads. A GPU's operators do not wait, so a GPU has one lane.

    For one caller at a time, since torch has one number of threads for the whole process.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._on_cpu = torch.device(device).type == "cpu"
        self._threads: ThreadPoolExecutor | None = None

    def count(self) -> int:
        """How many steps run at once."""
        return torch.get_num_threads() if self._on_cpu else 1

    def map(self, step: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The step's result for each item, in order.

        Raises what the first failing step raises. No other step begins once one has failed.
        """
        lanes = self.count()
        if min(lanes, len(items)) < 2:
            return [step(item) for item in items]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                lanes, "lane", initializer=torch.set_num_threads, initargs=(1,)
            )
        of_caller = partial(
            _as_the_caller, _until_one_fails(step), torch.is_inference_mode_enabled()
        )
        with _one_thread_an_operator():
            return list(self._threads.map(of_caller, items))


@contextmanager
def _one_thread_an_operator() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _until_one_fails(step: Callable[[T], R]) -> Callable[[T], R]:
    """The step; once it has failed for an item, it raises the same for all that have not begun."""
    failed: list[BaseException] = []

    def call(item: T) -> R:
        if failed:
            raise failed[0]
        try:
            return step(item)
        except BaseException as error:
            failed.append(error)
            raise

    return call


def _as_the_caller(step: Callable[[T], R], inference: bool, item: T) -> R:
    """Runs a step in the caller's inference mode, which torch keeps for each thread."""
    with torch.inference_mode(inference):
        return step(item)
