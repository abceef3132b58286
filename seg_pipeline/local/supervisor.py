"""Keeps programs running: starts them in order, restarts those that die, and stops all at the end.

It knows nothing of what the programs do; `stack.py` names them.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import IO, Self

from seg_pipeline.jobs.backoff import doubling_pause
from seg_pipeline.local import orphan_guard
from seg_pipeline.local.log_lines import LogLine, read_log_line
from seg_pipeline.local.orphan_guard import signal_group

TICK_SECONDS = 0.1
CHECK_SECONDS = 0.3
"""Between two checks whether a program is ready. Each may be a request that it logs."""

QUICK_DEATH_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""The pause between a death and the restart.

It doubles with each quick death in a row, and is short again after a long life.
"""

STARTS = 5
"""How often a program is started that dies quickly and has never been ready.

One that has been ready is restarted for ever.
"""

NO_RESTART = 78
"""EX_CONFIG of sysexits.h: the exit code of a program that would fail again at every start."""

LOG_BYTES = 5_000_000
LINES_SHOWN_A_MINUTE = 6
LEFT_OUT_SAID_AFTER_SECONDS = 20.0

Say = Callable[[str], None]


class SupervisorError(Exception):
    """Why everything stops; the message is for the user."""


class StopRequested(Exception):
    """A signal asked for the end."""


@dataclass(frozen=True)
class Program:
    """A program to run: when it is ready, what of its output the user sees, and how it stops.

    A program that runs `once` is ready when it has ended with 0. Warnings are shown unless they
    match `hushed`, other lines if they match `shown`; the log has everything. Programs with a lower
    `stop_turn` are stopped first. After `stop_seconds` a program is killed with all that it
    started, silently if it `may_be_killed` without loss. It runs as `user`, which only root may
    set.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    is_ready: Callable[[], bool] = lambda: True
    ready_within_seconds: float = 120.0
    once: bool = False
    shown: str | None = None
    hushed: str | None = None
    stop_turn: int = 0
    stop_seconds: float = 5.0
    may_be_killed: bool = False
    user: str | None = None


class LogFile:
    """A program's output on disk, bounded: this start's in `name.log`, the last in `name.log.1`."""

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._is_closed = False
        self._rotate()

    def write(self, data: bytes) -> None:
        """Appends a line.

        A full disk costs lines and nothing else. A line after `close` is dropped.
        """
        with self._lock, contextlib.suppress(OSError):
            if self._is_closed:
                return
            if self._file.closed or self._file.tell() + len(data) > self._limit_bytes:
                self._file.close()
                self._rotate()
            self._file.write(data)

    def close(self) -> None:
        """Closes the file for good."""
        with self._lock:
            self._is_closed = True
            self._file.close()

    def _rotate(self) -> None:
        """Begins a new file.

        If that fails the old one stays closed, and the next line tries again.
        """
        with contextlib.suppress(FileNotFoundError):
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self._file = self.path.open("wb", buffering=0)


class Output:
    """Reads a program's output.

    All of it goes into the log as JSON. Its last lines are kept, and its warnings shown.
    """

    def __init__(self, program: Program, log: LogFile, say: Say) -> None:
        self.last_lines: deque[str] = deque(maxlen=20)
        self._program, self._log, self._say = program, log, say
        self._shown: deque[float] = deque(maxlen=LINES_SHOWN_A_MINUTE)
        self._left_out = 0
        self._lock = threading.Lock()

    def follow(self, pipe: IO[bytes]) -> threading.Thread:
        """Reads until the last process that holds the pipe is gone."""
        thread = threading.Thread(
            target=self._read, args=(pipe,), name=f"output of {self._program.name}", daemon=True
        )
        thread.start()
        return thread

    def say_what_was_left_out(self, at_once: bool = False) -> None:
        """Prints how many warnings were not shown: a while after the last shown one, or at once."""
        with self._lock:
            count, is_over = (
                self._left_out,
                (
                    time.monotonic() - self._shown[-1] >= LEFT_OUT_SAID_AFTER_SECONDS
                    if self._shown
                    else True
                ),
            )
            if not count or not (is_over or at_once):
                return
            self._left_out = 0
        self._say(
            f"{self._program.name}: … {count} more {'line' if count == 1 else 'lines'} in"
            f" {self._log.path}"
        )

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := pipe.readline(65_536):
                if line := read_log_line(data, self._program.name):
                    self._log.write(line.to_bytes())
                    self._take(line)

    def _take(self, line: LogLine) -> None:
        self.last_lines.append(line.event)
        if self._program.shown and re.search(self._program.shown, line.event):
            self._say(line.event)
        elif self._is_alarming(line) and self._may_show():
            self._say(f"{self._program.name}: {line.readable(sys.stdout.isatty())}")

    def _is_alarming(self, line: LogLine) -> bool:
        hushed = self._program.hushed and re.search(self._program.hushed, line.event)
        return line.is_alarming and not hushed

    def _may_show(self) -> bool:
        now = time.monotonic()
        with self._lock:
            if len(self._shown) == self._shown.maxlen and now - self._shown[0] < 60:
                self._left_out += 1
                return False
            self._shown.append(now)
            return True


class ProgramProcess:
    """One life of a program: a process that leads its own group, and its output."""

    def __init__(self, program: Program, log: LogFile, say: Say) -> None:
        self.output = Output(program, log, say)
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            program.command,
            env=dict(program.environment) or None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=program.user,
        )
        assert self._process.stdout is not None
        self._reader = self.output.follow(self._process.stdout)

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code: None while it runs, minus the signal's number if one ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM to the leader, which tells its own children."""
        if self.exit_code() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Ends the whole group at once.

        Waits until its leader is reaped and its last lines are read.
        """
        signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=2)


class Guard:
    """The small process that ends our children if we are killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(orphan_guard.__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def pid(self) -> int:
        """The guard's own process id."""
        return self._process.pid

    def watch(self, group: int) -> None:
        """Adds the group, which from now on does not outlive us."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Removes the group, which is gone: another may soon get its number."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Closes the guard, which ends the groups that are left."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # somebody ended the guard; that is no reason to end
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


class State(Enum):
    """The state of a program."""

    WAITING = auto()
    STARTING = auto()
    READY = auto()
    PAUSING = auto()


class Keeper:
    """A program through all its lives."""

    def __init__(self, program: Program, log_dir: Path, say: Say, watcher: Guard) -> None:
        self.program = program
        self.state = State.WAITING
        self.child: ProgramProcess | None = None
        self._log = LogFile(log_dir / f"{program.name}.log")
        self._pid_file = log_dir / f"{program.name}.pid"
        self._say, self._watcher = say, watcher
        self._was_ready = False
        self._quick_deaths = 0
        self._resume_at = 0.0
        self._check_at = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the programs after it may start."""
        return self.state is State.READY

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""
        return self.child is not None and self.child.exit_code() is None

    def tick(self, ready: set[str]) -> None:
        """Checks the program once.

        Raises SupervisorError when it gives up, which it does only for a program that has never
        been ready.
        """
        now = time.monotonic()
        if self.child is not None:
            self.child.output.say_what_was_left_out()
        if self._may_start(ready, now):
            self._start()
        elif self.child is not None and (code := self.child.exit_code()) is not None:
            self._handle_exit(self.child, code)
        elif self.state is State.STARTING and now >= self._check_at:
            self._check_ready(now)
            self._check_at = now + CHECK_SECONDS

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, if it runs."""
        if self.child is not None:
            self.child.ask_to_stop()

    def close(self) -> None:
        """Kills what is left of it."""
        if self.child is not None:
            self._end_group(self.child)
        self._log.close()

    def _may_start(self, ready: set[str], now: float) -> bool:
        is_due = self.state is State.WAITING or (
            self.state is State.PAUSING and now >= self._resume_at
        )
        return is_due and ready.issuperset(self.program.after)

    def _start(self) -> None:
        try:
            self.child = ProgramProcess(self.program, self._log, self._say)
        except OSError as error:
            cause = f"{self.program.name} cannot be started: {error}"
            if not self._was_ready:
                raise SupervisorError(f"{cause}.") from error
            self._restart_later(cause, 0)
            return
        self._watcher.watch(self.child.pid)
        with contextlib.suppress(OSError):  # for people alone; a full disk is no reason to end
            self._pid_file.write_text(f"{self.child.pid}\n")
        self.state = State.STARTING

    def _check_ready(self, now: float) -> None:
        assert self.child is not None
        if not self.program.once and self.program.is_ready():
            self.state, self._was_ready = State.READY, True
        elif now - self.child.began > self.program.ready_within_seconds:
            cause = (
                f"{self.program.name} was not ready within {self.program.ready_within_seconds:g} s"
            )
            if not self._was_ready:
                raise SupervisorError(f"{cause}; {self._log.path} has more.")
            self._end_group(self.child)
            self._restart_later(cause, 0)

    def _end_group(self, child: ProgramProcess) -> None:
        child.kill()
        child.output.say_what_was_left_out(at_once=True)
        self._watcher.forget(child.pid)
        with contextlib.suppress(OSError):
            self._pid_file.unlink()
        self.child = None

    def _handle_exit(self, child: ProgramProcess, code: int) -> None:
        age = time.monotonic() - child.began
        self._end_group(child)
        if self.program.once and code == 0:
            self.state = State.READY
            return
        cause = f"{self.program.name} {_how_it_ended(code)}"
        if not self._was_ready and (
            code == NO_RESTART or self.program.once or self._quick_deaths + 1 >= STARTS
        ):
            raise SupervisorError(self._last_words(cause, child))
        self._restart_later(f"{cause} after {age:.0f} s", age)

    def _restart_later(self, cause: str, age: float) -> None:
        """Prints the cause, and starts the program again after a pause.

        `age` is how long it lived.
        """
        self._quick_deaths = self._quick_deaths + 1 if age < QUICK_DEATH_SECONDS else 1
        pause = pause_seconds(self._quick_deaths)
        self._say(f"{cause}; starting it again in {pause:g} s ({self._log.path})")
        self._resume_at, self.state = time.monotonic() + pause, State.PAUSING

    def _last_words(self, cause: str, child: ProgramProcess) -> str:
        lines = list(child.output.last_lines)
        if child.exit_code() == NO_RESTART and lines:
            return lines[-1]
        times = f" {self._quick_deaths + 1} times in a row" if self._quick_deaths else ""
        return "\n".join(
            [f"{cause}{times}; {self._log.path} ends:", *(f"  {line[:400]}" for line in lines[-5:])]
        )


class Supervisor:
    """Runs programs until a signal, or until one of them cannot be kept running.

    It is a context manager, which stops them at the end. Beside each `name.log` there is a
    `name.pid` while the program runs.
    """

    def __init__(self, programs: Sequence[Program], log_dir: Path, say: Say = print) -> None:
        self._programs, self._log_dir, self._say = programs, log_dir, say
        self._keepers: dict[str, Keeper] = {}
        self._stop_signals = 0
        self._is_stopping = False

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A SIGHUP that nohup ignores stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note_signal)
        self._watcher = Guard()
        for program in self._programs:
            self._keepers[program.name] = Keeper(
                program, self._log_dir, self._say_while_running, self._watcher
            )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stop_in_turns()
        finally:
            for keeper in self._keepers.values():
                keeper.close()
            self._watcher.close()

    def wait_until_ready(self) -> None:
        """Returns when every program is ready."""
        self.run_until(lambda: all(keeper.is_ready for keeper in self._keepers.values()))

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Supervises the programs until `is_over`. Raises StopRequested or SupervisorError."""
        while not is_over():
            if self._stop_signals:
                raise StopRequested
            self.tick()
            time.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Checks every program once."""
        for keeper in self._keepers.values():
            ready = {name for name, other in self._keepers.items() if other.is_ready}
            keeper.tick(ready)
        if os.getpid() == 1:
            self.reap_strangers()

    def pids(self) -> dict[str, int]:
        """The running programs, and their process ids."""
        return {
            name: each.child.pid for name, each in self._keepers.items() if each.child is not None
        }

    def reap_strangers(self) -> None:
        """Reaps orphans but never our own children, as process 1 of a container."""
        ours = {*self.pids().values(), self._watcher.pid}
        with contextlib.suppress(ChildProcessError):
            while (
                orphan := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            ) and orphan.si_pid not in ours:
                os.waitpid(orphan.si_pid, 0)

    def _note_signal(self, _number: int, _frame: object) -> None:
        self._stop_signals += 1

    def _say_while_running(self, line: str) -> None:
        """Prints the line, unless the programs are being stopped and complaints are expected."""
        if not self._is_stopping:
            self._say(line)

    def _stop_in_turns(self) -> None:
        self._is_stopping = True
        for turn in sorted({program.stop_turn for program in self._programs}):
            self._stop_together(
                [each for each in self._keepers.values() if each.program.stop_turn == turn]
            )

    def _stop_together(self, keepers: Sequence[Keeper]) -> None:
        began = time.monotonic()
        for keeper in keepers:
            keeper.ask_to_stop()
        while running := [keeper for keeper in keepers if keeper.is_running]:
            for keeper in running:
                is_overdue = time.monotonic() - began > keeper.program.stop_seconds
                if is_overdue and not keeper.program.may_be_killed:
                    self._say(f"{keeper.program.name} did not stop in time and is killed")
                if is_overdue or self._stop_signals > 1:  # a second Ctrl-C
                    keeper.close()
            time.sleep(TICK_SECONDS / 2)
        for keeper in keepers:
            keeper.close()


def pause_seconds(quick_deaths: int) -> float:
    """Before the restart after so many quick deaths in a row (from 1)."""
    return doubling_pause(quick_deaths, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
