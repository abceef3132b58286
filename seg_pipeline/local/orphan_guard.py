"""Ends the processes of a supervisor that was killed. Run by path, on the standard library alone.

It reads `+<process group>` and `-<process group>` lines from its standard input, which ends when
the supervisor does. It then asks the groups that were not removed to stop, and kills those that do
not. Unlike Linux's parent-death signal this reaches grandchildren, and works on macOS.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 5.0


def main() -> None:
    """Waits for the end of its input, then ends the groups that are left."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    end_groups(groups_left(sys.stdin), GRACE_SECONDS)


def groups_left(lines: Iterable[str]) -> set[int]:
    """The groups that were added and not removed, once there are no more lines."""
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line.startswith("+") else groups.discard
        with contextlib.suppress(ValueError):  # a line cut short by the supervisor's death
            change(int(line[1:]))
    return groups


def end_groups(groups: set[int], grace_seconds: float) -> None:
    """Sends SIGTERM to all groups, and SIGKILL after the grace to those that are still there."""
    for group in groups:
        signal_group(group, signal.SIGTERM)
    give_up_at = time.monotonic() + grace_seconds
    while any(signal_group(group, 0) for group in groups) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    for group in groups:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Sends a signal (0: none) to a process group. Returns whether the group exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
