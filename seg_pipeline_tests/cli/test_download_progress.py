"""What somebody sees who waits for weights: a bar on a terminal, lines in a log. Downloads are real
ones."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from seg_pipeline.cli.download_progress import Milestones
from seg_pipeline_tests.segmenters.file_hosts import NAME, FileHost, make_checkpoint, serving

pytestmark = pytest.mark.process

# The command itself; only the address is another.
PULL = """
import sys
from functools import partial
from seg_pipeline.segmenters.weights import locate
locate.find_weights = partial(locate.find_weights, url_of=lambda *_: sys.argv[1])
from seg_pipeline.cli.main import app
app(["weights", "pull", sys.argv[2]])
"""


@pytest.fixture
def host() -> Iterator[FileHost]:
    with serving(make_checkpoint()) as host:
        yield host


def pull(host: FileHost, folder: Path, output: int, **environment: str) -> int:
    """Runs `weights pull` with its output there; gives its exit code."""
    environment = {
        **os.environ,
        "WEIGHTS_DIR": str(folder / "weights"),
        "TERM": "xterm",
        **environment,
    }
    command = [sys.executable, "-c", PULL, host.url, NAME]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=output, stderr=output, check=False
    ).returncode


def seen_on_a_terminal(host: FileHost, folder: Path, **environment: str) -> str:
    """What a terminal of 100 columns is sent, without its control sequences but with its line
    starts."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    assert pull(host, folder, slave, **environment) == 0
    os.close(slave)
    sent = b""
    try:
        while data := os.read(master, 65536):
            sent += data
    except OSError:  # Linux says so when the other end is closed and all is read
        pass
    os.close(master)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent.decode())


def test_a_terminal_shows_a_bar_with_bytes_and_time(host: FileHost, tmp_path: Path) -> None:
    shown = seen_on_a_terminal(host, tmp_path)
    assert (tmp_path / "weights" / f"{NAME}.pt").read_bytes() == host.body
    assert re.search(rf"{NAME} .*━+ .*3\.0/3\.0 MB .*\d+:\d\d", shown)
    assert "downloading" not in shown


def test_the_bar_says_where_a_broken_download_was_taken_up_again(
    host: FileHost, tmp_path: Path
) -> None:
    host.break_after = [2_200_000]
    shown = seen_on_a_terminal(host, tmp_path)
    assert len(host.ranges) == 2
    resumed = re.search(r"resumed at (\d\.\d) MB", shown)
    assert resumed
    assert 1 <= float(resumed[1]) <= 2.2


def test_a_terminal_that_cannot_draw_gets_lines(host: FileHost, tmp_path: Path) -> None:
    assert "downloading" in seen_on_a_terminal(host, tmp_path, TERM="dumb")


def test_a_log_gets_a_line_now_and_then(host: FileHost, tmp_path: Path) -> None:
    """`seg-pipeline up` relays lines that begin so; colours are not for it, whatever the
    environment says."""
    with (tmp_path / "log").open("w") as log:
        assert pull(host, tmp_path, log.fileno(), FORCE_COLOR="1") == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == f"downloading {NAME}: 0 of 3 MB"
    assert lines[-1] == f"downloading {NAME}: 3 of 3 MB"
    assert len(lines) <= 11


def test_a_milestone_is_a_tenth() -> None:
    said: list[str] = []
    milestones = Milestones(said.append)
    for name in "ab":
        for done in range(101):
            milestones(name, done * 10**6, 100 * 10**6)
    assert said == [
        f"downloading {name}: {done} of 100 MB" for name in "ab" for done in range(0, 101, 10)
    ]
