"""Redis and Postgres from the PATH, as two more supervised programs of this machine.

`make run-servers` so tries the profile of `docker-compose.yml` without containers. Each server
listens on a free port of the loopback only, has a password of its own, and keeps its data beside
the service's.
"""

import contextlib
import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from seg_pipeline.local.supervisor import Program, SupervisorError
from seg_pipeline.settings import Settings

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below the ports that systems assign to connections and to programs that ask for any port.

These begin at 49152 in RFC 6335, and at 32768 on Linux.
"""

USER = "seg"
DATABASE = "postgres"  # initdb makes it
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
"""Debian keeps initdb and postgres off the PATH, in a folder for each version."""


@dataclass(frozen=True)
class Servers:
    """The programs to start, and the settings that point the service to them."""

    programs: list[Program]
    settings: Settings


def with_servers(settings: Settings) -> Servers:
    """Redis unless BROKER_URL names a broker, and Postgres unless DATABASE_URL names a database.

    Raises SupervisorError with a sentence if one of them is not installed.
    """
    _check_installed(settings)
    password = _password(settings.data_dir / "servers.password")
    programs: list[Program] = []
    if settings.broker_url is None:
        port = free_port(ports_of(settings))
        programs.append(_redis(settings.data_dir.absolute() / "redis", port, password))
        url = f"redis://:{password}@{HOST}:{port}/0"
        settings = settings.model_copy(update={"broker_url": url})
    if settings.database_url is None:
        port = free_port(ports_of(settings))
        programs.append(_postgres(settings.data_dir.absolute(), port, password))
        url = f"postgresql://{USER}:{password}@{HOST}:{port}/{DATABASE}"
        settings = settings.model_copy(update={"database_url": url})
    return Servers(programs, settings)


def ports_of(settings: Settings) -> set[int]:
    """The ports on which the service and its servers are to listen, whether they do yet or not."""
    urls = filter(None, (settings.broker_url, settings.database_url))
    return {settings.api_port, settings.dagster_port, *map(_port_of, urls)}


def _port_of(url: str) -> int:
    """The port that a URL names; 0 if it names none that can be."""
    try:
        return urlsplit(url).port or 0
    except ValueError:
        return 0


def free_port(but: Collection[int] = ()) -> int:
    """A port of this machine on which nobody listens, and that the system assigns to nobody.

    It is none of those in `but`.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if port in but:
            continue
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise SupervisorError(
        f"no port from {PORTS.start} to {PORTS.stop - 1} is free on this machine."
    )


def listens(host: str, port: int) -> bool:
    """Whether the port accepts connections."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres in their newest installed version; None without one."""
    initdb = shutil.which("initdb")
    folders = (
        [Path(initdb).parent] if initdb else sorted(DEBIAN_POSTGRES.glob("*/bin"), key=_version)
    )
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


def _version(folder: Path) -> float:
    return float(folder.parent.name) if folder.parent.name.replace(".", "").isdigit() else 0.0


def _check_installed(settings: Settings) -> None:
    missing = []
    if settings.broker_url is None and shutil.which("redis-server") is None:
        missing.append("redis-server (set BROKER_URL to use a Redis elsewhere)")
    if settings.database_url is None and postgres_programs() is None:
        missing.append("postgresql (set DATABASE_URL to use a Postgres elsewhere)")
    if missing:
        names = " and ".join(missing)
        raise SupervisorError(
            f"{names} not installed; on Debian and Ubuntu: apt-get install redis-server postgresql."
        )


def _password(path: Path) -> str:
    """The servers' password on this machine, made once; only the owner can read it."""
    if path.exists():
        return path.read_text(encoding="ascii").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    password = secrets.token_hex(16)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password)
    return password


def _redis(folder: Path, port: int, password: str) -> Program:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "redis.conf"
    config.touch(mode=0o600)
    lines = {
        "bind": HOST,
        "port": port,
        "dir": f'"{folder}"',
        "requirepass": password,
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
    }
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    return Program(
        "redis", ["redis-server", str(config)], is_ready=lambda: listens(HOST, port), stop_turn=2,
        hushed="Memory overcommit",
    )  # fmt: skip


def _postgres(data_dir: Path, port: int, password: str) -> Program:
    """The Postgres server. Its folder is made here on the first start."""
    programs, user = postgres_programs(), _postgres_user()
    assert programs is not None
    folder = _postgres_folder(data_dir, user, password)
    if not (folder / "PG_VERSION").exists():
        _make_database(programs / "initdb", folder, user, password)
    options = ["-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="]
    return Program(
        "postgres", [str(programs / "postgres"), "-D", str(folder), "-p", str(port), *options],
        is_ready=lambda: listens(HOST, port), stop_turn=2, user=user,
        hushed="terminating connection|shutting down|not properly shut down|Connection reset",
    )  # fmt: skip


def _postgres_user() -> str | None:
    """The user that runs Postgres, which refuses to run as root; None for our own user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _postgres_folder(data_dir: Path, user: str | None, password: str) -> Path:
    """The folder of Postgres: beside our data, or below /var/tmp where its user may not enter ours.

    The name holds a hash of the password, since a data folder that was removed and made anew has
    another.
    """
    if user is None or all(
        parent.stat().st_mode & 0o001 for parent in (data_dir, *data_dir.parents)
    ):
        return data_dir / "postgres"
    name = sha256(f"{data_dir} {password}".encode()).hexdigest()[:12]
    return Path("/var/tmp") / f"seg-pipeline-{name}" / "postgres"


def _make_database(initdb: Path, folder: Path, user: str | None, password: str) -> None:
    """Makes the database beside its place, then moves it there.

    A start that dies half way so leaves nothing half made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    secret = unfinished.with_name("postgres.password")
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        for path in (unfinished, secret):
            shutil.chown(path, user)
    command = [
        initdb,
        "-D",
        unfinished,
        "-U",
        USER,
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "-E",
        "UTF8",
    ]
    done = subprocess.run(
        [*map(str, command), "--locale=C"],
        user=user,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    secret.unlink()
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SupervisorError(f"Postgres' folder {folder} cannot be made: {reason}")
    unfinished.replace(folder)
