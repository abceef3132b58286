"""A line now and then while something long is measured."""

import sys
import time

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Prints a line to stderr, with the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    print(f"{minutes:3d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)
