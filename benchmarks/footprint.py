"""What the processes need: the API's seconds to start, and everybody's memory after some work."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from benchmarks.bursts import queue_all
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of
from seg_pipeline.local.servers import free_port


def measure(options: Options) -> list[Row]:
    """The API's start, alone, until it answers; then the whole product after a burst."""
    seconds = [_start(options.folder / str(index)) for index in range(options.scaled(5, 2))]
    pictures = write_scenes(options.folder / "pictures", options.scaled(200, 20))
    with running_stack(options.folder / "stack", options.model) as stack:
        queue_all(stack, pictures)
        return [row_of("the API process starts in", seconds, "s", "2 s"), *_resident(stack)]


def _start(folder: Path) -> float:
    port = free_port()
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "API_PORT": str(port),
        "MODEL": "demo-yolo",
    }
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "api.main"], env=environment, stderr=subprocess.DEVNULL
    )
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


def _resident(stack: RunningStack) -> list[Row]:
    sizes = sorted(
        (_name(process), process.memory_info().rss / 2**20) for process in stack.processes()[1:]
    )
    targets = {"api.main": "150 MB"}
    return [
        Row(f"resident: `{name}`", f"{size:.0f} MB", "", targets.get(name, ""))
        for name, size in sizes
    ]


def _name(process: psutil.Process) -> str:
    """What runs, without the interpreter and its options."""
    words = [word for word in process.cmdline()[1:] if not word.startswith("-")]
    name = Path(words[0]).name if words else process.name()
    parent = process.parent()
    is_child = parent is not None and parent.cmdline() == process.cmdline()
    return f"{name} (child)" if is_child else name
