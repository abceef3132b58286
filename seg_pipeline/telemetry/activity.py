"""When the run of a worker last made progress, in memory that its parent process reads."""

import mmap
import os
import struct
import time

_PID, _MARKED_AT = struct.Struct("q"), struct.Struct("d")


class RunActivity:
    """What a process works on, and since when nothing has come of it.

    Processes that are forked later share it. There is one run at a time.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _PID.size + _MARKED_AT.size)

    def begin(self) -> None:
        """Notes that this process has begun a run."""
        self.mark()
        _PID.pack_into(self._memory, 0, os.getpid())

    def mark(self) -> None:
        """Notes that the run has made progress."""
        _MARKED_AT.pack_into(self._memory, _PID.size, time.monotonic())

    def end(self) -> None:
        """Notes that no run is under way."""
        _PID.pack_into(self._memory, 0, 0)

    def stalled(self, seconds: float) -> int | None:
        """The process whose run has made no progress for so long; None if there is none."""
        (marked_at,) = _MARKED_AT.unpack_from(self._memory, _PID.size)
        (pid,) = _PID.unpack_from(self._memory, 0)
        return pid if pid and time.monotonic() - marked_at > seconds else None


ACTIVITY = RunActivity()
"""That of this process, or of the child that it forked."""
