"""Makes once in a process what libraries make anew for each client and each instance, at 30 ms of
computing for a client and 50 ms for an instance."""

import os
import ssl
from functools import cache
from typing import Any

import httpx._transports.default
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log import in_memory as event_logs
from dagster._core.storage.runs import in_memory as runs
from sqlalchemy.engine import Connection

_context_of = httpx._transports.default.create_ssl_context  # type: ignore[attr-defined]


def share_certificates() -> None:
    """Lets the HTTP clients of this process share the certificates that they trust."""
    httpx._transports.default.create_ssl_context = shared_context  # type: ignore[attr-defined]


def shared_context(
    verify: ssl.SSLContext | str | bool = True, cert: Any = None, trust_env: bool = True
) -> ssl.SSLContext:
    """What httpx makes of these, the same for the same."""
    if verify is not True or cert is not None:
        return _context_of(verify, cert, trust_env)
    return _trusting(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _trusting(trust_env: bool, _file: str | None, _folder: str | None) -> ssl.SSLContext:
    return _context_of(trust_env=trust_env)


def share_migrations() -> None:
    """Lets Dagster's instances in memory share the migrations that mark their tables' version."""
    for module in (event_logs, runs):
        module.stamp_alembic_rev = stamp  # type: ignore[attr-defined]


def stamp(config: Config, connection: Connection, rev: str = "head") -> None:
    """Marks the tables as those of the revision, as `alembic stamp` does."""
    MigrationContext.configure(connection).stamp(_scripts(config.config_file_name), rev)


@cache
def _scripts(config_file: str) -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(config_file))
