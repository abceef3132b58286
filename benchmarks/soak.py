"""Whether any process grows at full load: resident memory and open files of each, at the quarters
of the time.

At full load two batches of jobs are in hand all the time, and beside them one picture after the
other is waited for.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import count, cycle
from pathlib import Path

import httpx
import psutil

from benchmarks.bursts import queue_one, send_one
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row

MARKS = ("25%", "50%", "75%", "100%")
WARM_UP_SECONDS = 60.0
IN_HAND = 64
"""Queued jobs that are not finished: two full batches."""

PICTURES = 40
ASSET_TTL_SECONDS = 120
"""Jobs expire within the soak, so that the hourly prune has something to do if it falls into it."""


@dataclass(frozen=True)
class Size:
    """What a process holds, and the CPU seconds that it has used."""

    megabytes: float
    files: int
    cpu_seconds: float


@dataclass(frozen=True)
class Mark:
    """How it stood at some moment."""

    jobs: int
    sizes: Mapping[str, Size]


@dataclass
class Load:
    """What keeps the service busy until then, and counts the jobs that are done."""

    stack: RunningStack
    pictures: Sequence[Path]
    until: float
    queued: int = 0
    alone: int = 0

    @property
    def jobs(self) -> int:
        """How many are done."""
        return self.queued + self.alone

    def queue(self) -> None:
        """Keeps so many jobs in hand."""
        name, numbers, several = secrets.token_hex(4), count(), cycle(self.pictures)
        in_hand: list[str] = []
        with httpx.Client(base_url=self.stack.url, timeout=120) as client:
            while time.monotonic() < self.until:
                while len(in_hand) < IN_HAND:
                    in_hand.append(f"{name}-{next(numbers)}")
                    queue_one(client, in_hand[-1], next(several))
                time.sleep(0.1)
                left = [uuid for uuid in in_hand if not self.stack.has_finished(uuid)]
                self.queued += len(in_hand) - len(left)
                in_hand = left

    def send(self) -> None:
        """Sends one picture after the other and waits for each."""
        several = cycle(self.pictures)
        with httpx.Client(base_url=self.stack.url, timeout=180) as client:
            while time.monotonic() < self.until:
                send_one(client, next(several))
                self.alone += 1


def measure(options: Options) -> list[Row]:
    """A row for each process, on the profile that was asked for."""
    pictures = write_scenes(options.folder / "pictures", PICTURES, width=320, height=240)
    settings = {
        "asset_ttl_seconds": ASSET_TTL_SECONDS,
        "run_retention_seconds": 10 * ASSET_TTL_SECONDS,
    }
    minutes = options.scaled(options.minutes, 1)
    with running_stack(options.folder / "stack", "demo-yolo", options.profile, **settings) as stack:
        marks = _soak(stack, pictures, 60 * minutes)
    what = f"{options.profile}, {minutes} minutes, {marks[-1].jobs - marks[0].jobs} jobs"
    return [_row(f"{what}: {name}", name, marks) for name in marks[-1].sizes]


def _soak(stack: RunningStack, pictures: Sequence[Path], seconds: float) -> list[Mark]:
    """How it stood once it was warm, and at each mark."""
    load = Load(stack, pictures, time.monotonic() + WARM_UP_SECONDS + seconds)
    with ThreadPoolExecutor(2, thread_name_prefix="load") as threads:
        under_way = [threads.submit(work) for work in (load.queue, load.send)]
        time.sleep(WARM_UP_SECONDS)
        marks = [Mark(load.jobs, sizes_of(stack))]
        for _ in MARKS:
            time.sleep(seconds / len(MARKS))
            marks.append(Mark(load.jobs, sizes_of(stack)))
            say(f"soak: {marks[-1].jobs} jobs, {_total(marks[-1].sizes):.0f} MB in all")
        for work in under_way:
            work.result()
    return marks


def sizes_of(stack: RunningStack) -> dict[str, Size]:
    """Every process of the service by its name, and those below it by its name and a number, such
    as a worker's child; Postgres, whose processes come and go with connections, as one."""
    sizes: dict[str, Size] = {}
    for name, pid in _named(stack).items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            below = [] if name == "supervisor" else process.children(recursive=True)
            family = [_size(each) for each in (process, *below)]
            if name == "postgres":
                family = [
                    Size(*(sum(figures) for figures in zip(*map(astuple, family), strict=True)))
                ]
            sizes |= {
                f"{name} {number}" if number else name: size for number, size in enumerate(family)
            }
    return sizes


def _named(stack: RunningStack) -> dict[str, int]:
    files = (stack.settings.data_dir / "logs").glob("*.pid")
    return {path.stem: int(text) for path in sorted(files) if (text := path.read_text())} | {
        "supervisor": stack.pid
    }


def _size(process: psutil.Process) -> Size:
    """What it shares with others, as Postgres' processes do their buffers, is not its own."""
    memory, cpu = process.memory_info(), process.cpu_times()
    own = memory.rss - getattr(memory, "shared", 0)
    return Size(own / 2**20, process.num_fds(), cpu.user + cpu.system)


def _total(sizes: Mapping[str, Size]) -> float:
    return sum(size.megabytes for size in sizes.values())


def _row(figure: str, name: str, marks: Sequence[Mark]) -> Row:
    """Of a process that was there from the first quarter on how it grew since."""
    known = [mark.sizes[name] for mark in marks if name in mark.sizes]
    after_a_quarter = known[1:] if len(known) == len(marks) else known
    growth = known[-1].megabytes / max(after_a_quarter[0].megabytes, 1)
    cpu_ms = (
        1000
        * (known[-1].cpu_seconds - known[0].cpu_seconds)
        / max(1, marks[-1].jobs - marks[0].jobs)
    )
    each = ", ".join(f"{size.megabytes:.0f}" for size in after_a_quarter)
    files = ", ".join(str(size.files) for size in after_a_quarter)
    return Row(
        figure, f"{growth:.2f}", f"{each} MB; {files} files; {cpu_ms:.1f} ms of CPU a job", "flat"
    )
