"""The supervisor over small programs of our own: what it restarts, when it gives up, and that
nothing outlives it."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from seg_pipeline.local import supervisor as supervising
from seg_pipeline.local.supervisor import (
    LogFile,
    Program,
    StopRequested,
    Supervisor,
    SupervisorError,
    pause_seconds,
)

pytestmark = pytest.mark.process

PATIENCE_SECONDS = 20.0

FOREVER = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True);"
    " time.sleep(600)"
)
WITH_GRANDCHILD = (
    "import pathlib, subprocess, sys, time;"
    "grandchild = subprocess.Popen([sys.executable, '-c', {grandchild!r}], stdout=subprocess.PIPE);"
    "grandchild.stdout.readline();"
    "pathlib.Path({file!r}).write_text(str(grandchild.pid));"
    "time.sleep(600)"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time to lose between restarts."""
    monkeypatch.setattr(supervising, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(supervising, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(supervising, "STARTS", 3)


def make_program(name: str, code: str, **values: object) -> Program:
    """A program that runs Python code."""
    return Program(name, [sys.executable, "-c", code], **values)  # type: ignore[arg-type]


def test_a_program_that_dies_is_restarted_and_said_so_in_one_line(
    tmp_path: Path, quick: None
) -> None:
    said: list[str] = []
    with Supervisor([make_program("clock", FOREVER)], tmp_path, said.append) as supervisor:
        supervisor.wait_until_ready()
        first = supervisor.pids()["clock"]
        os.kill(first, signal.SIGKILL)
        supervisor.run_until(_soon(lambda: supervisor.pids().get("clock", first) != first))
        supervisor.wait_until_ready()
    assert len(said) == 1
    assert said[0].startswith("clock was ended by SIGKILL after 0 s; starting it again in 0.05 s")


def test_a_program_that_was_ready_once_is_restarted_for_ever(tmp_path: Path, quick: None) -> None:
    """Killed as often as one likes, each time before it is ready again, also if it says that a
    restart is no use."""
    marker = tmp_path / "was-here"
    code = (
        "import pathlib, sys, time\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "if marker.exists():\n"
        "    sys.exit(78)\n"
        "marker.touch()\n"
        "time.sleep(600)"
    )
    said: list[str] = []
    with Supervisor(
        [make_program("mill", code, is_ready=marker.exists)], tmp_path, said.append
    ) as supervisor:
        supervisor.wait_until_ready()
        os.kill(supervisor.pids()["mill"], signal.SIGKILL)
        supervisor.run_until(_soon(lambda: len(said) > 2 * supervising.STARTS))
        marker.unlink()
        supervisor.wait_until_ready()
    assert all(line.startswith("mill ") and "starting it again in 0.05 s" in line for line in said)


def test_a_program_that_is_not_ready_in_time_is_restarted_if_it_was_once(
    tmp_path: Path, quick: None
) -> None:
    answers = iter([True])
    said: list[str] = []
    program = make_program(
        "mill", FOREVER, is_ready=lambda: next(answers, False), ready_within_seconds=0.3
    )
    with Supervisor([program], tmp_path, said.append) as supervisor:
        supervisor.wait_until_ready()
        first = supervisor.pids()["mill"]
        os.kill(first, signal.SIGKILL)
        supervisor.run_until(_soon(lambda: len(said) > 2))
        assert not _is_alive(first)
    assert said[1].startswith("mill was not ready within 0.3 s; starting it again in 0.05 s")


def test_pauses_grow_to_half_a_minute() -> None:
    deaths = [1, 2, 3, 6, 7, 100, 10**9]
    assert [pause_seconds(count) for count in deaths] == [0.5, 1, 2, 16, 30, 30, 30]


def test_a_long_life_makes_the_next_pause_short_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "FIRST_PAUSE_SECONDS", 0.05)
    said: list[str] = []
    with Supervisor([make_program("clock", FOREVER)], tmp_path, said.append) as supervisor:
        for lives, quick_death_seconds in enumerate([60, 60, 0], 1):
            supervisor.wait_until_ready()
            monkeypatch.setattr(supervising, "QUICK_DEATH_SECONDS", quick_death_seconds)
            os.kill(supervisor.pids()["clock"], signal.SIGKILL)
            supervisor.run_until(_soon(partial(_has_length, said, lives)))
    assert [line.partition("again in ")[2].split()[0] for line in said] == ["0.05", "0.1", "0.05"]


def test_a_program_that_keeps_dying_is_given_up_with_its_last_lines(
    tmp_path: Path, quick: None
) -> None:
    code = "import sys; print('no grain in sight', file=sys.stderr); sys.exit(3)"
    program = make_program("mill", code, is_ready=lambda: False)
    said: list[str] = []
    with (
        pytest.raises(
            SupervisorError,
            match=r"mill ended with exit code 3 3 times in a row; .*\n  no grain in sight",
        ),
        Supervisor([program], tmp_path, said.append) as supervisor,
    ):
        supervisor.run_until(_soon(lambda: False))
    assert len(said) == 2


def test_giving_one_up_stops_the_others(tmp_path: Path, quick: None) -> None:
    """A service of which a part is missing for good should be seen to be down."""
    broken = make_program("mill", "raise SystemExit('broken')", is_ready=lambda: False)
    programs = [make_program("clock", FOREVER), broken]
    clocks: list[int] = []
    with (
        pytest.raises(SupervisorError, match="broken"),
        Supervisor(programs, tmp_path, _nobody) as supervisor,
    ):
        supervisor.run_until(_soon(lambda: _noted(clocks, supervisor.pids().get("clock"))))
    assert clocks
    assert not any(_is_alive(clock) for clock in clocks)


def test_a_program_that_says_that_a_restart_is_no_use_has_the_last_word(tmp_path: Path) -> None:
    code = "import sys; print('the mill needs a river'); sys.exit(78)"
    program = make_program("mill", code, is_ready=lambda: False)
    said: list[str] = []
    with (
        pytest.raises(SupervisorError, match=r"^the mill needs a river$"),
        Supervisor([program], tmp_path, said.append) as supervisor,
    ):
        supervisor.run_until(_soon(lambda: False))
    assert said == []


def test_programs_start_after_those_that_they_need(tmp_path: Path) -> None:
    done = tmp_path / "done"
    programs = [
        make_program(
            "second",
            f"import pathlib; assert pathlib.Path({str(done)!r}).exists(); {FOREVER}",
            after=("first",),
        ),
        make_program(
            "first",
            f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(done)!r}).touch()",
            once=True,
        ),
    ]
    with Supervisor(programs, tmp_path, _nobody) as supervisor:
        supervisor.run_until(_soon(lambda: "second" in supervisor.pids()))
        supervisor.wait_until_ready()


def test_a_program_that_runs_once_is_not_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    program = make_program("tables", "raise SystemExit('no room')", once=True)
    with (
        pytest.raises(SupervisorError, match=r"tables ended with exit code 1; .*\n  no room"),
        Supervisor([program], tmp_path, said.append) as supervisor,
    ):
        supervisor.wait_until_ready()
    assert said == []


def test_a_program_that_never_gets_ready_is_named(tmp_path: Path) -> None:
    program = make_program("mill", FOREVER, is_ready=lambda: False, ready_within_seconds=0.2)
    with (
        pytest.raises(SupervisorError, match=r"mill was not ready within 0.2 s; .*mill.log"),
        Supervisor([program], tmp_path, _nobody) as supervisor,
    ):
        supervisor.wait_until_ready()


def test_a_command_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(SupervisorError, match=r"mill cannot be started: .*no-such-mill"),
        Supervisor([Program("mill", ["/no-such-mill"])], tmp_path, _nobody) as supervisor,
    ):
        supervisor.wait_until_ready()


def test_stopping_ends_grandchildren_too(tmp_path: Path) -> None:
    """A worker's forked child, which ignores the signal here, must not keep a port or a GPU."""
    with Supervisor([_family(tmp_path, STUBBORN)], tmp_path, _nobody) as supervisor:
        supervisor.run_until(_soon((tmp_path / "pid").exists))
        grandchild = int((tmp_path / "pid").read_text())
        assert _is_alive(grandchild)
    assert not _is_alive(grandchild)


def test_a_dead_program_leaves_no_grandchildren_to_its_next_life(
    tmp_path: Path, quick: None
) -> None:
    with Supervisor([_family(tmp_path, STUBBORN)], tmp_path, _nobody) as supervisor:
        supervisor.run_until(_soon((tmp_path / "pid").exists))
        grandchild, leader = int((tmp_path / "pid").read_text()), supervisor.pids()["family"]
        os.kill(leader, signal.SIGKILL)
        supervisor.run_until(_soon(lambda: supervisor.pids().get("family", leader) != leader))
        assert not _is_alive(grandchild)


def test_a_program_that_will_not_stop_is_killed_and_named(tmp_path: Path) -> None:
    said: list[str] = []
    with Supervisor(
        [make_program("mill", STUBBORN, stop_seconds=0.3)], tmp_path, said.append
    ) as supervisor:
        supervisor.run_until(_soon(lambda: "here" in _log_of(tmp_path, "mill")))
        mill = supervisor.pids()["mill"]
    assert not _is_alive(mill)
    assert said == ["mill did not stop in time and is killed"]


def test_programs_are_stopped_in_their_turns(tmp_path: Path) -> None:
    """The API first, so that nothing new comes in; what others lean on last."""
    ends = tmp_path / "ends"
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        f"    pathlib.Path({str(ends)!r}).open('a').write(sys.argv[1])\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('here', flush=True)\n"
        "time.sleep(600)"
    )
    programs = [
        Program(name, [sys.executable, "-c", code, name], stop_turn=turn)
        for name, turn in [("b", 1), ("a", 0), ("c", 2)]
    ]
    with Supervisor(programs, tmp_path, _nobody) as supervisor:
        supervisor.run_until(
            _soon(lambda: all("here" in _log_of(tmp_path, name) for name in "abc"))
        )
    assert ends.read_text() == "abc"


def test_a_signal_asks_for_the_end(tmp_path: Path) -> None:
    with Supervisor([make_program("clock", FOREVER)], tmp_path, _nobody) as supervisor:
        supervisor.wait_until_ready()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            supervisor.run_until(lambda: False)


def test_warnings_are_shown_and_all_the_rest_is_in_the_log(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "for line in 'INFO: quiet', '\\x1b[31mERROR\\x1b[0m: loud', '{odd WARNING', 'error-free':\n"
        "    print(line, flush=True)\n"
        "time.sleep(600)"
    )
    said: list[str] = []
    with Supervisor([make_program("mill", code)], tmp_path, said.append) as supervisor:
        supervisor.run_until(_soon(lambda: "error-free" in _log_of(tmp_path, "mill")))
    assert said == ["mill: ERROR: loud", "mill: {odd WARNING"]
    assert "INFO: quiet" in _log_of(tmp_path, "mill")


def test_lines_that_are_asked_for_are_shown_as_they_are(tmp_path: Path) -> None:
    said: list[str] = []
    program = make_program(
        "mill", "print('grinding 10%'); print('humming'); print('grinding 20%')", once=True
    )
    with Supervisor([replace(program, shown="^grinding")], tmp_path, said.append) as supervisor:
        supervisor.wait_until_ready()
    assert said == ["grinding 10%", "grinding 20%"]


def test_a_flood_of_warnings_does_not_bury_the_terminal(tmp_path: Path) -> None:
    said: list[str] = []
    code = "print('WARNING: again\\n' * 1000 + 'over', flush=True); import time; time.sleep(600)"
    with Supervisor([make_program("mill", code)], tmp_path, said.append) as supervisor:
        supervisor.run_until(_soon(lambda: '"over"}' in _log_of(tmp_path, "mill")))
    assert len(said) == supervising.LINES_SHOWN_A_MINUTE


def test_a_log_is_bounded_and_the_last_start_s_is_kept(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "mill.log", limit_bytes=100)
    for _ in range(100):
        log.write(b"0123456789")
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200
    LogFile(tmp_path / "mill.log").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mill.log", "mill.log.1"]


def test_a_log_that_cannot_begin_anew_goes_on_once_it_can(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "mill.log", limit_bytes=10)
    log.write(b"0123456789")
    (tmp_path / "mill.log").unlink()
    (tmp_path / "mill.log").mkdir()
    (tmp_path / "mill.log.1").write_bytes(b"so that the folder cannot take its name")
    log.write(b"lost")
    (tmp_path / "mill.log").rmdir()
    log.write(b"kept")
    log.close()
    log.write(b"late")
    assert (tmp_path / "mill.log").read_bytes() == b"kept"


def test_a_file_that_cannot_be_written_beside_the_logs_ends_nothing(
    tmp_path: Path, quick: None
) -> None:
    """A disk that is full while a program is started again."""
    (tmp_path / "clock.pid").mkdir()
    with Supervisor([make_program("clock", FOREVER)], tmp_path, lambda _: None) as supervisor:
        supervisor.wait_until_ready()
        first = supervisor.pids()["clock"]
        os.kill(first, signal.SIGKILL)
        supervisor.run_until(_soon(lambda: supervisor.pids().get("clock", first) != first))
        supervisor.wait_until_ready()


def test_killing_the_supervisor_outright_leaves_nothing_running(tmp_path: Path) -> None:
    """Out of memory, or an impatient user: ports and the GPU must be free for the next start."""
    grandchild = WITH_GRANDCHILD.format(grandchild=FOREVER, file=str(tmp_path / "pid"))
    code = (
        "import pathlib, sys\n"
        "from seg_pipeline.local.supervisor import Program, Supervisor\n"
        f"program = Program('family', [sys.executable, '-c', {grandchild!r}])\n"
        f"with Supervisor([program], pathlib.Path({str(tmp_path)!r})) as supervisor:\n"
        "    supervisor.wait_until_ready()\n"
        "    print(supervisor.pids()['family'], flush=True)\n"
        "    supervisor.run_until(lambda: False)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        _wait_for((tmp_path / "pid").exists)
        process.kill()
    _wait_for(lambda: not _is_alive(child) and not _is_alive(int((tmp_path / "pid").read_text())))


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux hands orphans to a process other than the first"
)
def test_as_first_process_of_a_container_it_reaps_orphans_and_leaves_its_own(
    tmp_path: Path,
) -> None:
    """Otherwise every process whose parent is gone stays as a zombie until the table is full."""
    code = (
        "import pathlib, subprocess, sys, time\n"
        "orphan = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.3)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(orphan.pid))\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}]); {FOREVER}"
    adopt_orphans(True)
    try:
        with Supervisor([make_program("parent", parent)], tmp_path, _nobody) as supervisor:
            supervisor.run_until(_soon((tmp_path / "pid").exists))
            orphan = int((tmp_path / "pid").read_text())
            supervisor.run_until(_soon(lambda: _state_of(orphan) == "Z"))
            supervisor.reap_strangers()
            assert _state_of(orphan) is None
            assert _is_alive(supervisor.pids()["parent"])
    finally:
        adopt_orphans(False)


def adopt_orphans(on: bool) -> None:
    """Makes this process what process 1 is in a container (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    assert ctypes.CDLL(None).prctl(36, int(on), 0, 0, 0) == 0


def _family(folder: Path, grandchild: str) -> Program:
    return make_program(
        "family", WITH_GRANDCHILD.format(grandchild=grandchild, file=str(folder / "pid"))
    )


def _nobody(_line: str) -> None:
    pass


def _log_of(folder: Path, name: str) -> str:
    path = folder / f"{name}.log"
    return path.read_text() if path.exists() else ""


def _noted(pids: list[int], pid: int | None) -> bool:
    """Remembers the process; False, so that the wait goes on."""
    if pid:
        pids.append(pid)
    return False


def _state_of(pid: int) -> str | None:
    """Linux's letter for what the process does (`Z`: it has ended, its parent has not looked), or
    None."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else None


def _is_alive(pid: int) -> bool:
    if sys.platform == "linux":
        return _state_of(pid) not in (None, "Z")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _has_length(said: Sequence[str], length: int) -> bool:
    return len(said) == length


def _soon(happened: Callable[[], bool]) -> Callable[[], bool]:
    """The same condition, which fails the test when it takes too long."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS

    def check() -> bool:
        assert time.monotonic() < give_up_at, "it did not happen"
        return happened()

    return check


def _wait_for(happened: Callable[[], bool]) -> None:
    soon = _soon(happened)
    while not soon():
        time.sleep(0.05)


def test_the_file_is_json_and_the_terminal_is_told_what_it_does_not_show(tmp_path: Path) -> None:
    code = (
        "import time\nfor n in range(10): print('WARNING number', n, flush=True)\nprint('quiet',"
        " flush=True)\n"
    )
    said: list[str] = []
    with Supervisor(
        [make_program("mill", code + "time.sleep(600)")], tmp_path, said.append
    ) as supervisor:
        supervisor.run_until(_soon(lambda: "quiet" in (tmp_path / "mill.log").read_text()))
        os.kill(supervisor.pids()["mill"], signal.SIGKILL)
        supervisor.run_until(_soon(lambda: any("more" in line for line in said)))
    lines = [json.loads(line) for line in (tmp_path / "mill.log").read_text().splitlines()]
    assert [line["level"] for line in lines] == ["warning"] * 10 + ["info"]
    assert said[:6] == [f"mill: WARNING number {number}" for number in range(6)]
    assert said[6] == f"mill: … 4 more lines in {tmp_path / 'mill.log'}"


def test_what_was_left_out_is_told_while_the_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "LEFT_OUT_SAID_AFTER_SECONDS", 0.2)
    code = "import time\nfor n in range(8): print('ERROR number', n, flush=True)\ntime.sleep(600)"
    said: list[str] = []
    with Supervisor([make_program("mill", code)], tmp_path, said.append) as supervisor:
        supervisor.run_until(_soon(lambda: any("more" in line for line in said)))
        assert supervisor.pids()
    assert said[-1] == f"mill: … 2 more lines in {tmp_path / 'mill.log'}"
