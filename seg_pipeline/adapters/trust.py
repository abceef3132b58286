"""Whose certificates the servers that we connect to may have."""

import ssl
from functools import lru_cache

import httpx


@lru_cache(maxsize=1)
def ssl_context() -> ssl.SSLContext:
    """The process's own, since it takes a while to make."""
    return httpx.create_ssl_context()
