"""How busy the GPU is while something runs, as its driver tells it."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_SECONDS = 0.25
QUERY = (
    "nvidia-smi",
    "--query-gpu=utilization.gpu,memory.used",
    "--format=csv,noheader,nounits",
)


@contextmanager
def watched(seconds: float = EVERY_SECONDS) -> Iterator[list[tuple[float, float]]]:
    """The list is filled with per cent and MB in use, until the block ends; empty without a GPU."""
    samples: list[tuple[float, float]] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(seconds):
            if (sample := _sample()) is None:
                return
            samples.append(sample)

    thread = threading.Thread(target=look, name="utilisation", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join(10)


def _sample() -> tuple[float, float] | None:
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=5)
        busy, used = answer.stdout.splitlines()[0].split(",")
        return float(busy), float(used)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
