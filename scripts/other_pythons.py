"""Runs the tests that start no process on another Python, in a copy with an environment of its own.

Python 3.11 to 3.14 are looked for on PATH, and where pyenv and uv install them.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
MINORS = (11, 12, 13, 14)
LEFT_OUT = (".venv", ".git", ".data", "data", "site", "__pycache__", "*.egg-info", ".*_cache")
"""What a copy of the repository does not need: all of it is made anew or ignored."""


@dataclass(frozen=True, order=True)
class Interpreter:
    """A Python that runs, with its whole version."""

    version: tuple[int, int, int]
    path: Path

    @property
    def name(self) -> str:
        """As people write it: `3.13.0`."""
        return ".".join(map(str, self.version))


def main(arguments: Sequence[str] | None = None) -> None:
    """Says which Pythons are here, and tests with the newest of them, or with all."""
    parser = argparse.ArgumentParser(prog="make pythons", description=__doc__)
    parser.add_argument("--all", action="store_true", help="all of them, not the newest alone")
    options = parser.parse_args(arguments)
    ours = Interpreter(sys.version_info[:3], Path(sys.executable))
    others = newest_of_each(filter(None, map(interpreter, candidates())), ours.version[1])
    print(summary(ours, others), flush=True)
    chosen = others if options.all else others[-1:]
    failed = [each.name for each in chosen if not passes(each)]
    if failed:
        sys.exit(f"The tests that start no process fail on Python {' and '.join(failed)}.")


def candidates() -> Iterator[Path]:
    """Paths that may be one of the four Pythons."""
    for minor in MINORS:
        for folder in os.get_exec_path():
            yield Path(folder) / f"python3.{minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or "~/.local/share/uv/python").expanduser()
    for installed in (pyenv, uv):
        yield from sorted(installed.glob("*/bin/python3"))


def interpreter(path: Path) -> Interpreter | None:
    """The Python at a path; None if there is none that runs and can make environments."""
    asked = "import sys, venv; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([path, "-c", asked], capture_output=True, text=True, check=True)
        major, minor, micro = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return Interpreter((major, minor, micro), path)


def newest_of_each(found: Iterable[Interpreter], ours: int) -> list[Interpreter]:
    """One of each of the four versions but ours, a minor version, in order."""
    known = (each for each in found if each.version[0] == 3 and each.version[1] in MINORS)
    newest = {each.version[1]: each for each in sorted(known)}
    return [each for minor, each in sorted(newest.items()) if minor != ours]


def summary(ours: Interpreter, others: Sequence[Interpreter]) -> str:
    """Which of the four versions are here, and which are not."""
    here = [each.name for each in others]
    minors = {each.version[1] for each in (ours, *others)}
    missing = [f"3.{minor}" for minor in MINORS if minor not in minors]
    others_here = ", ".join(here) or "no other from 3.11 on"
    said = f"Besides Python {ours.name} this machine has {others_here}."
    return f"{said} Not tested, since it is not here: {', '.join(missing)}." if missing else said


def passes(python: Interpreter) -> bool:
    """Whether the tests that start no process pass on it."""
    print(f"Python {python.name}: an environment is made, then the tests run.", flush=True)
    with TemporaryDirectory(prefix=f"seg-python-{python.name}-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        command = ["make", "--no-print-directory", "quick", f"PYTHON={python.path}"]
        return subprocess.run(command, cwd=copy, check=False).returncode == 0


if __name__ == "__main__":
    main()
