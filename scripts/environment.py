"""Makes .venv as requirements-dev.lock says, or does nothing if it is so already. Needs only the
standard library.

Indexes, proxies and certificates are those that pip or uv is configured with on this machine.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "seg-pipeline.stamp"
LOCK = ROOT / "requirements-dev.lock"
UV = "uv==0.13.9"
PIP_SETTINGS_FOR_UV = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
HEAVY = (
    "cv2",
    "sam2.automatic_mask_generator",
    "ultralytics.nn.tasks",
    "dagster_celery",
    "dagster_postgres",
    "dagster_webserver.app",
    "dagster._daemon.cli",
)
"""Imported once, which proves the installation and leaves compiled files, so that the first start
is quick too."""

UV_CONFIG_FILES = (Path("/etc/uv/uv.toml"), Path.home() / ".config/uv/uv.toml")


class InstallFailed(Exception):
    """A step did not work; the message is all that a user needs."""


def main() -> None:
    """Brings the environment up to date; one install at a time."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        sys.exit(
            f"Python 3.11, 3.12, 3.13 or 3.14 is needed; {sys.executable} is"
            f" {sys.version.split()[0]}."
        )
    with open(ROOT / "pyproject.toml", encoding="utf-8") as turnstile:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        if not is_current():
            try:
                install()
            except InstallFailed as failure:
                sys.exit(str(failure))
            except KeyboardInterrupt:
                sys.exit("\nStopped. The next `make` goes on with what is downloaded already.")


def fingerprint() -> str:
    """Changes with anything that the environment was made from."""
    import tomllib  # not before the check of the version: 3.10 has none

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = [
        str(VENV),
        sys.version_info[:2],
        project.get("project"),
        project.get("build-system"),
        _hatch(project),
    ]
    digest = hashlib.sha256(json.dumps(parts).encode())
    for path in (LOCK, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _hatch(project: "dict[str, Any]") -> object:
    """How the project itself is built; what the linters are told changes no environment."""
    return project.get("tool", {}).get("hatch")


def is_current() -> bool:
    """Whether .venv was made from these very files and its interpreter is still there."""
    return STAMP.exists() and PYTHON.exists() and STAMP.read_text(encoding="utf-8") == fingerprint()


def install() -> None:
    """Makes the environment, keeps an existing one where it can, and leaves the stamp last."""
    began = time.monotonic()
    print("Making .venv; the first time some 3 GB are downloaded, most of it torch ...", flush=True)
    STAMP.unlink(missing_ok=True)
    install_packages(LOCK)
    install_project()
    run(
        [PYTHON, "-c", f"import {', '.join(HEAVY)}"],
        "the installed packages do not load (`make clean` may help)",
    )
    STAMP.write_text(fingerprint(), encoding="utf-8")
    print(f"Made .venv in {time.monotonic() - began:.0f} s.", flush=True)


def install_packages(lock: Path) -> None:
    """What a lock names and nothing else, checked by hash."""
    make_venv()
    run(
        [PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check", UV],
        "uv could not be installed",
    )
    shown = [] if sys.stderr.isatty() else ["--quiet"]  # uv's progress is for people
    hashed: list[str | Path] = [*shown, "--require-hashes", "--python", PYTHON]
    builder: list[str | Path] = ["--constraints", LOCK, locked_version("setuptools")]
    run(
        [*uv_pip(), "install", *hashed, *builder],
        "setuptools, which builds sam2, could not be installed",
    )
    run(
        [*uv_pip(), "sync", *hashed, "--no-build-isolation", lock],
        f"{lock.name} could not be installed",
    )


def install_project() -> None:
    """The project itself, from where it lies."""
    # A path would be read as a requirement, and a `#` in it as its end.
    editable = ["--no-deps", "--no-build-isolation", "--editable", "."]
    run(
        [*uv_pip(), "install", "--quiet", "--python", PYTHON, *editable],
        "the project itself could not be installed",
    )


def uv_pip() -> "list[str | Path]":
    """The command that installs packages."""
    return [VENV / "bin" / "uv", "pip"]


def locked_version(name: str) -> str:
    """`name==version` as the lock has it."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return next(line.split()[0] for line in lines if line.startswith(f"{name}=="))


def make_venv() -> None:
    """An environment of this very Python version; another one's is made anew."""
    if python_version(PYTHON) == python_version(Path(sys.executable)) and has_pip(PYTHON):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    hint = (
        "the environment could not be made; on Debian and Ubuntu the package python3-venv is needed"
    )
    run([sys.executable, "-m", "venv", VENV], hint)


def python_version(python: Path) -> "str | None":
    """`3.11`, or None if it does not run."""
    return answer_of([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])


def has_pip(python: Path) -> bool:
    """Whether pip works there."""
    return answer_of([python, "-m", "pip", "--version"]) is not None


def answer_of(command: "Sequence[str | Path]") -> "str | None":
    """What a command prints, or None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def run(command: "Sequence[str | Path]", failure: str) -> None:
    """Runs a step in the project's folder; its own messages are shown."""
    if subprocess.run(command, cwd=ROOT, env=step_environment(), check=False).returncode:
        raise InstallFailed(f"make: {failure}; the lines above say why.")


def step_environment() -> "dict[str, str]":
    """This process's environment, with what pip was told and uv was not."""
    quiet = {"YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false", "YOLO_CONFIG_DIR": str(VENV)}
    # sam2 comes as source, with a CUDA extension that nothing here uses; a machine with a compiler
    # would build it.
    environment = {"UV_HTTP_TIMEOUT": "180", "SAM2_BUILD_CUDA": "0", **quiet, **os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if (
        any(path.exists() for path in UV_CONFIG_FILES)
        or "UV_INDEX_URL" in environment
        or not PYTHON.exists()
    ):
        return environment
    for line in (answer_of([PYTHON, "-m", "pip", "config", "list"]) or "").splitlines():
        key, _, value = line.partition("=")
        variable = PIP_SETTINGS_FOR_UV.get(key.rpartition(".")[2])
        if variable:
            environment.setdefault(variable, value.strip("'\""))
    return environment


if __name__ == "__main__":
    main()
