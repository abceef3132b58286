"""Certificates that are read once in a process: httpx reads them for each client, which computes
for 30 ms."""

import os
import ssl
from functools import cache
from typing import Any

import httpx._transports.default

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
