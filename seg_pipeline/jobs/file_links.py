"""Addresses of jobs' files: open ones, or signed ones that expire if ASSET_LINK_SECRET is set.

    {base}/assets/{uuid}/{name}?expires={epoch seconds}&signature={hex HMAC-SHA256}

Signed links lead to this service even if the files are in a bucket. Then it may be closed to all.
With S3_SIGNED_LINKS they lead to the bucket instead, signed as S3 has it.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Protocol

from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.objects import Store


class FileLinks(Protocol):
    """The addresses and names of a job's files; every store has them."""

    def url(self, key: str, base_url: str) -> str:
        """Where a client finds the file, if this service is at `base_url`."""
        ...

    def file_name(self, key: str) -> str:
        """The file's name in answers."""
        ...


def file_links(store: Store, settings: Settings) -> FileLinks:
    """The links that the settings ask for."""
    if settings.s3_signed_links and isinstance(store, ObjectStore):
        return BucketLinks(store, settings.asset_link_seconds)
    if settings.asset_link_secret is None:
        return store
    secret = settings.asset_link_secret.get_secret_value()
    return SignedLinks(store, secret, settings.asset_link_seconds)


class SignedLinks:
    """Links that hold for `ttl_seconds` after they are made."""

    def __init__(
        self, store: Store, secret: str, ttl_seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._secret = secret
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    def url(self, key: str, base_url: str) -> str:
        """The file's address at this service, with its end and its signature."""
        expires = str(int(self._clock()) + self._ttl_seconds)
        signature = sign(self._secret, key, expires)
        return f"{base_url.rstrip('/')}/{key}?expires={expires}&signature={signature}"

    def file_name(self, key: str) -> str:
        """The name that the store gives it."""
        return self._store.file_name(key)


class BucketLinks:
    """S3's own signed links, which hold for `ttl_seconds`, or as long as a role's credentials."""

    def __init__(self, store: ObjectStore, ttl_seconds: int) -> None:
        self._store, self._ttl_seconds = store, ttl_seconds

    def url(self, key: str, base_url: str) -> str:
        """The file's address in the bucket, signed."""
        return self._store.signed_url(key, self._ttl_seconds)

    def file_name(self, key: str) -> str:
        """The name that the store gives it."""
        return self._store.file_name(key)


def sign(secret: str, key: str, expires: str) -> str:
    """The hex HMAC-SHA256 of the file's key, a line feed and the time when the link expires."""
    return hmac.new(secret.encode(), f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()


def is_genuine(secret: str, key: str, expires: str, signature: str, now: float) -> bool:
    """Whether a link was signed here for this file and has not expired."""
    signed = hmac.compare_digest(sign(secret, key, expires).encode(), signature.encode())
    return signed and expires.isascii() and expires.isdecimal() and now <= int(expires)
