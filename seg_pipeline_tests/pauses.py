"""Pauses that a test does not wait for."""

import threading
import time
from collections.abc import Callable

import pytest


def note_pauses(monkeypatch: pytest.MonkeyPatch, note: Callable[[float], object]) -> None:
    """Has `note` called instead of `time.sleep` in this thread.

    Other threads sleep on: those of other tests, for example, which have not ended yet.
    """
    here, sleep = threading.get_ident(), time.sleep

    def pause(seconds: float) -> None:
        if threading.get_ident() == here:
            note(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr("time.sleep", pause)
