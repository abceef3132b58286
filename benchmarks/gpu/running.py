"""Runs parts one after the other, each in a process of its own and within its time."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.findings import Agreement, Finding, read_findings
from benchmarks.gpu.parts import Part

PROJECT = Path(__file__).parents[2]
LEAST_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a part found, how long it took, and why it did not end well, if so."""

    name: str
    findings: list[Finding]
    seconds: float
    failure: str | None = None
    output: str = ""
    """The end of what it printed, its traceback among it."""

    @property
    def is_good(self) -> bool:
        """Whether it was measured to its end, and all that must agree does."""
        return self.failure is None and not self.disagreements

    @property
    def disagreements(self) -> list[Agreement]:
        """What should be the same and is not."""
        return [each for each in self.findings if isinstance(each, Agreement) and not each.holds]


def outcomes(
    parts: Mapping[str, Part], device: str, short: bool, all_seconds: float
) -> Iterator[Outcome]:
    """Each part's outcome as it ends."""
    end = time.monotonic() + all_seconds
    with tempfile.TemporaryDirectory(prefix="seg-bench-gpu-", ignore_cleanup_errors=True) as folder:
        for name, part in parts.items():
            limit = min(part.seconds, end - time.monotonic())
            if limit < LEAST_SECONDS:
                yield Outcome(name, [], 0, f"no time was left of {all_seconds:.0f} s")
                continue
            place = Path(folder) / name
            place.mkdir()
            yield _measured(name, part, device, short, limit, place)


def _measured(
    name: str, part: Part, device: str, short: bool, limit: float, folder: Path
) -> Outcome:
    findings, log = folder / "findings.jsonl", folder / "output"
    command = [sys.executable, "-u", "-m", "benchmarks.gpu.measuring", part.module, device]
    command += [str(folder), str(findings), *(["--short"] if short else [])]
    begin = time.monotonic()
    with log.open("wb") as output:
        failure = _ended(command, output.fileno(), limit)
    return Outcome(name, [*read_findings(findings)], time.monotonic() - begin, failure, _tail(log))


def _ended(command: list[str], output: int, limit: float) -> str | None:
    """Runs the command, at most so long, and ends all that it started; why it did not end well."""
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
    )
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"it was ended after {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}" if code else None


def _tail(log: Path, size: int = 8_000) -> str:
    return log.read_bytes()[-size:].decode(errors="replace").strip()
