"""What the API process needs: seconds to start, and memory."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from benchmarks.running_stack import RunningStack
from benchmarks.tables import Row
from seg_pipeline.stack import free_port

STARTS = 5


def measure(folder: Path) -> list[Row]:
    """The API's start, alone, until it answers."""
    seconds = [_start(folder / str(index)) for index in range(STARTS)]
    spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    return [Row("the API process starts in", f"{statistics.median(seconds):.2f} s", spread, "2 s")]


def _start(folder: Path) -> float:
    port = free_port()
    environment = {**os.environ, "DATA_DIR": str(folder), "API_PORT": str(port), "MODEL": "demo-yolo"}
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not _answers(port):
            time.sleep(0.02)
        return time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def resident(stack: RunningStack) -> list[Row]:
    """Resident memory of every process of the stack, after the work of the other benchmarks."""
    processes = psutil.Process(stack.pid).children(recursive=True)
    sizes = sorted(
        ((_name(process), process.memory_info().rss / 2**20) for process in processes), key=lambda each: each[0]
    )
    targets = {"api.main": "150 MB"}
    return [Row(f"resident: `{name}`", f"{size:.0f} MB", "", targets.get(name, "")) for name, size in sizes]


def _name(process: psutil.Process) -> str:
    """What runs, without the interpreter and its options."""
    words = [word for word in process.cmdline()[1:] if not word.startswith("-")]
    name = Path(words[0]).name if words else process.name()
    parent = process.parent()
    is_child = parent is not None and parent.cmdline() == process.cmdline()
    return f"{name} (child)" if is_child else name
