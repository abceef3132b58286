"""What goes wrong in a trial, and when: a seeded plan of kills and outages, and the hands that
carry it out."""

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import psutil

from seg_pipeline_tests.chaos.gates import Gate, Mode
from seg_pipeline_tests.running_stack import Stack

BALLAST_PIECE = 1 << 20
PRUNE_SECONDS = 20


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong `at_seconds` after the beginning; `seconds` is 0 for a kill."""

    at_seconds: float
    name: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Outage:
    """Something that can be taken away and given back."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]


@dataclass(frozen=True)
class Schedule:
    """How many kills there are within `seconds`, and how long whatever is taken away stays away."""

    seed: int
    kills: int
    seconds: float
    away_seconds: float


def plan(schedule: Schedule, targets: Sequence[str], outages: Sequence[str]) -> list[Fault]:
    """Kills of every target in turn, at random times, and each outage once, one after the other."""
    chance, seconds = random.Random(schedule.seed), schedule.seconds
    order = [*targets]
    chance.shuffle(order)
    turns = [f"kill {order[number % len(order)]}" for number in range(schedule.kills)]
    gap = seconds / max(1, len(outages))
    away_ones = [
        Fault(number * gap, name, min(schedule.away_seconds, gap))
        for number, name in enumerate(outages)
    ]
    killed = [Fault(chance.uniform(0, seconds), name) for name in turns]
    return sorted([*killed, *away_ones], key=lambda fault: fault.at_seconds)


class Saboteur:
    """Carries out a plan on a running service, and counts what was done."""

    def __init__(self, stack: Stack, outages: Sequence[Outage]) -> None:
        self._stack = stack
        self._outages = {outage.name: outage for outage in outages}
        self.done: Counter[str] = Counter()

    def carry_out(self, faults: Sequence[Fault]) -> None:
        """Returns when all of it is over and everything was given back."""
        began = time.monotonic()
        outages = [self._begin_outage(fault, began) for fault in faults if fault.seconds]
        for fault in faults:
            if not fault.seconds:
                _sleep_until(began + fault.at_seconds)
                self._kill(fault.name.removeprefix("kill "))
        for thread in outages:
            thread.join()

    def _begin_outage(self, fault: Fault, began: float) -> threading.Thread:
        thread = threading.Thread(
            target=self._outage, args=(fault, began), name=fault.name, daemon=True
        )
        thread.start()
        return thread

    def _outage(self, fault: Fault, began: float) -> None:
        _sleep_until(began + fault.at_seconds)
        outage = self._outages[fault.name]
        outage.begin()
        try:
            time.sleep(fault.seconds)
        finally:
            outage.end()
        self.done[fault.name] += 1

    def _kill(self, target: str) -> None:
        """One that is not there at this moment, because it was killed before, counts as not
        killed."""
        pid = self._pid_of(target)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.done[f"kill {target}"] += 1

    def _pid_of(self, target: str) -> int | None:
        name = target.removeprefix("child of ")
        pid = self._stack.pids().get(name)
        if pid is None or name == target:
            return pid
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(pid).children()
            return children[-1].pid if children else None
        return None


def gate_outage(name: str, gate: Gate, mode: Mode) -> Outage:
    """What is behind the gate goes away in this way."""
    return Outage(name, lambda: gate.set(mode), lambda: gate.set(Mode.OPEN))


def frozen(stack: Stack, name: str) -> Outage:
    """A process of the stack, with its children, that answers nothing: SIGSTOP, then SIGCONT."""
    stopped: list[psutil.Process] = []

    def begin() -> None:
        with contextlib.suppress(KeyError, psutil.NoSuchProcess):
            process = psutil.Process(stack.pid(name))
            for each in (process, *process.children(recursive=True)):
                each.suspend()
                stopped.append(each)

    def end() -> None:
        for each in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

    return Outage(f"{name} frozen", begin, end)


def emptied_redis(stack: Stack) -> Outage:
    """Redis is killed and comes back without a key."""

    def begin() -> None:
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(stack.pid("redis"), signal.SIGKILL)
        shutil.rmtree(stack.data_dir / "redis" / "appendonlydir", ignore_errors=True)

    return Outage("redis back empty", begin, lambda: None)


def killed_prune(stack: Stack) -> Outage:
    """A prune begins, and its process is killed as soon as it is there."""

    def begin() -> None:
        until = time.monotonic() + PRUNE_SECONDS
        run_id = _launched_prune(stack, until)
        while run_id and time.monotonic() < until and not _kill_process_of(run_id):
            time.sleep(0.1)

    return Outage("prune killed", begin, lambda: None)


def _launched_prune(stack: Stack, until: float) -> str | None:
    """The run's id; None if Dagster's page, or what it asks, is away all the time."""
    while time.monotonic() < until:
        try:
            return stack.launch_prune()
        except (OSError, HTTPException, LookupError, TypeError, AssertionError):
            time.sleep(0.5)
    return None


def _kill_process_of(run_id: str) -> bool:
    for process in psutil.process_iter(["cmdline"]):
        if run_id in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            return True
    return False


def full_disk(folder: Path) -> Outage:
    """The file system of the folder has no byte left."""
    ballast = folder / "ballast"

    def begin() -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * BALLAST_PIECE)

    return Outage("disk full", begin, lambda: ballast.unlink(missing_ok=True))


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own at the folder; False, and none, where this user may not mount
    one."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.system(f"mount -t tmpfs -o size={megabytes}m tmpfs {folder} 2>/dev/null") == 0
    try:
        yield mounted
    finally:
        if mounted:
            os.system(f"umount -l {folder}")


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
