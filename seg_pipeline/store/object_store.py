"""A store over obstore: an S3 bucket, or memory."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import MemoryStore, S3Store

from seg_pipeline.errors import ObjectNotFound, StoreUnavailable
from seg_pipeline.store import keys
from seg_pipeline.store.checking import check_create, check_round_trip
from seg_pipeline.store.failures import translated
from seg_pipeline.store.objects import PIECE_BYTES, ObjectInfo, T, keep_none

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Config, S3Credential

    from seg_pipeline.settings import Settings

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
"""The limit of one request, from its beginning to the last byte of its answer."""

RETRY_SECONDS = 15.0
"""The latest start of a retry after the first try. So a call ends within 45 s.

A sensor's tick has a minute.
"""

_PAGE = 1000
_PART_BYTES = 8 * 2**20
_files_at_once = threading.BoundedSemaphore(4)
_REQUESTS = 16
"""The most requests of `at_once` that are under way in a process."""


class ObjectStore:
    """Objects by their keys, in a bucket, or in memory for tests and for one process.

    S3 itself makes writes atomic and durable, and shows them to every reader at once. `create` is a
    PUT with `If-None-Match: *`, which AWS, MinIO, R2 and Ceph (from Squid on) support. `check`
    refuses a server that ignores it.

    An object is one PUT, so nothing half-written stays behind. Only a file of more than 8 MiB is
    uploaded in parts. A killed process leaves its parts in the bucket, invisible, until its
    lifecycle rule removes them.

    A forked process must not use a store that its parent had already used: obstore's threads do not
    survive a fork. Calls would hang in the child and, from then on, in the parent. The child gets
    StoreUnavailable instead.
    """

    def __init__(self, objects: S3Store | MemoryStore, public_url: str | None = None) -> None:
        self._remote = objects
        self._public_url = public_url
        self._creates = False
        self._is_remote = isinstance(objects, S3Store)

    @classmethod
    def in_memory(cls) -> "ObjectStore":
        """An empty store that ends with the process."""
        return cls(MemoryStore())

    @classmethod
    def in_bucket(cls, settings: "Settings") -> "ObjectStore":
        """The bucket of the settings. It makes no request yet.

        Raises StoreUnavailable without credentials.
        """
        return cls(_s3(settings), _public_url(settings))

    def put(self, key: str, data: bytes) -> None:
        with translated(keys.check_key(key)):
            self._put(key, data, "overwrite")

    def put_file(self, key: str, file: BinaryIO) -> None:
        """A large file is uploaded in parts, and few files at once, since parts are in memory."""
        with translated(keys.check_key(key)), _files_at_once:
            file.seek(0)
            obstore.put(
                self._objects,
                key,
                file,
                attributes={"Content-Type": keys.content_type(key)},
                chunk_size=_PART_BYTES,
                max_concurrency=2,
            )

    def create(self, key: str, data: bytes, *, lasting: bool = True) -> bool:
        """Also returns False if our own first try was written but its answer was lost."""
        with translated(keys.check_key(key)):
            try:
                self._put(key, data, "create")
            except AlreadyExistsError:
                return False
            return True

    def copy(self, key: str, target: str) -> None:
        """The bucket copies it, in one request."""
        with translated(keys.check_key(key)):
            obstore.copy(self._objects, key, keys.check_key(target))

    def get(self, key: str) -> bytes:
        with translated(keys.check_key(key)):
            return obstore.get(self._objects, key).bytes().to_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        with translated(keys.check_key(key)):
            return _pieces(key, obstore.get(self._objects, key))

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with translated(keys.check_key(key)):
                return _info(obstore.head(self._objects, key))
        except ObjectNotFound:
            return None

    def list(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> list[ObjectInfo]:
        """It takes one request for a thousand objects, and none beyond the limit."""
        infos: list[ObjectInfo] = []
        with translated(keys.check_prefix(prefix)):
            for info in self._each(prefix, after, limit):
                if len(infos) == limit:
                    break
                infos.append(info)
        return infos

    def count(self, prefix: str) -> int:
        with translated(keys.check_prefix(prefix)):
            return sum(len(page) for page in obstore.list(self._objects, prefix, chunk_size=_PAGE))

    def list_folders(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[str]:
        """With a limit it reads objects until it is reached, else only the folders."""
        with translated(keys.check_prefix(prefix)):
            if limit is None:
                return [
                    name for name in self._all_folders(prefix) if f"{name}/" > f"{after or ''}/"
                ]
            names: dict[str, None] = {}
            # `0` is what follows `/`: with it, the listing starts after everything in the folder.
            for info in self._each(prefix, f"{prefix}{after}0" if after else None, None):
                name, slash, _ = info.key.removeprefix(prefix).partition("/")
                if slash and name not in names and len(names) == limit:
                    break
                if slash:
                    names[name] = None
            return [*names]

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound), translated(keys.check_key(key)):
            obstore.delete(self._objects, key)

    def delete_folder(self, prefix: str, keep: Callable[[str], bool] = keep_none) -> int:
        with translated(keys.check_prefix(prefix)):
            pages = obstore.list(self._objects, prefix, chunk_size=_PAGE)
            names = [meta["path"] for page in pages for meta in page if not keep(meta["path"])]
            if names:
                obstore.delete(self._objects, names)
        return len(names)

    def at_once(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        """A call made from within such a call runs its own calls in turn."""
        if not self._is_remote or len(calls) < 2 or _inside.request:
            return [call() for call in calls]
        futures = [_requests(os.getpid()).submit(call) for call in calls]
        wait(futures)
        return [future.result() for future in futures]

    def url(self, key: str, base_url: str) -> str:
        return f"{self._public_url or base_url.rstrip('/')}/{keys.check_key(key)}"

    def signed_url(self, key: str, seconds: int) -> str:
        """Where anybody finds the object for so long, in a bucket. It makes no request."""
        assert isinstance(self._objects, S3Store)
        with translated(keys.check_key(key)):
            return obstore.sign(self._objects, "GET", key, timedelta(seconds=seconds))

    def file_name(self, key: str) -> str:
        """The key in a bucket, the path below `/assets/` in memory."""
        return keys.check_key(key).removeprefix("" if self._public_url else keys.ASSETS)

    def check(self) -> None:
        """The first call also checks that `create` does not overwrite."""
        check_round_trip(self, keys.CHECKS)
        if not self._creates:
            check_create(self, keys.CHECKS)
            self._creates = True

    @property
    def _objects(self) -> S3Store | MemoryStore:
        if _pid_of_first_use() != os.getpid():
            raise StoreUnavailable(
                "this process was forked from one that had used the store: let its parent not"
                " do so."
            )
        return self._remote

    def _put(self, key: str, data: bytes, mode: Any) -> None:
        attributes = {"Content-Type": keys.content_type(key)}
        obstore.put(self._objects, key, data, mode=mode, attributes=attributes, use_multipart=False)

    def _each(self, prefix: str, after: str | None, limit: int | None) -> Iterator[ObjectInfo]:
        chunk = _PAGE if limit is None else min(limit + 1, _PAGE)
        for page in obstore.list(self._objects, prefix, offset=after, chunk_size=chunk):
            # A console's "create folder" leaves an object with the name of the prefix, which is not
            # ours.
            ours = (
                meta
                for meta in page
                if meta["path"].startswith(prefix) and keys.is_key(meta["path"])
            )
            yield from map(_info, ours)

    def _all_folders(self, prefix: str) -> Sequence[str]:
        folders = obstore.list_with_delimiter(self._objects, prefix)["common_prefixes"]
        return sorted(
            (name.removeprefix(prefix).strip("/") for name in folders), key=lambda name: f"{name}/"
        )


class _Inside(threading.local):
    request = False


_inside = _Inside()


def _enter() -> None:
    _inside.request = True


@lru_cache(maxsize=1)
def _requests(_pid: int) -> ThreadPoolExecutor:
    """The process's threads for requests. A forked child makes its own."""
    return ThreadPoolExecutor(_REQUESTS, "request", initializer=_enter)


@lru_cache(maxsize=1)
def _pid_of_first_use() -> int:
    return os.getpid()


def _pieces(key: str, result: "obstore.GetResult") -> Iterator[bytes]:
    with translated(key):
        for chunk in result.stream(min_chunk_size=PIECE_BYTES):
            view = memoryview(chunk)
            yield from (
                bytes(view[start : start + PIECE_BYTES])
                for start in range(0, len(view), PIECE_BYTES)
            )


def _info(meta: "ObjectMeta") -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"])


def _public_url(settings: "Settings") -> str:
    endpoint = settings.s3_endpoint_url or f"https://s3.{settings.aws_region}.amazonaws.com"
    return f"{endpoint.rstrip('/')}/{settings.s3_bucket}"


def _s3(settings: "Settings") -> S3Store:
    config: S3Config = {"region": settings.aws_region}
    if settings.s3_endpoint_url:
        config["endpoint"] = settings.s3_endpoint_url.rstrip("/")
    return S3Store(
        settings.s3_bucket,
        config=config,
        credential_provider=_credentials(settings),
        client_options={
            "allow_http": (settings.s3_endpoint_url or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={
            "max_retries": 4,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


def _credentials(settings: "Settings") -> Any:
    """A callable for obstore. It is never None.

    With None, obstore would read the environment itself, past our settings.
    """
    if settings.s3_access_key and settings.s3_secret_key:
        return _FixedCredentials(
            settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
        )
    return _boto3_credentials(settings)


class _FixedCredentials:
    def __init__(self, access_key: str, secret_key: str) -> None:
        self._credential: S3Credential = {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": None,
            "expires_at": None,
        }

    def __call__(self) -> "S3Credential":
        return self._credential


def _impatient(profile: str | None) -> Any:
    """A session that gives up requests for a role's credentials sooner than botocore's default."""
    from botocore.config import Config
    from botocore.session import Session

    session = Session(profile=profile)
    session.set_default_client_config(
        Config(connect_timeout=CONNECT_SECONDS, read_timeout=10, retries={"total_max_attempts": 2})
    )
    return session


def _boto3_credentials(settings: "Settings") -> Any:
    """The credentials of boto3's chain: environment, profile, container, instance role."""
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    with translated(f"bucket {settings.s3_bucket}"):
        session = boto3.Session(
            botocore_session=_impatient(settings.aws_profile), region_name=settings.aws_region
        )
        if session.get_credentials() is None:
            raise StoreUnavailable(
                f"no credentials for bucket {settings.s3_bucket}: set S3_ACCESS_KEY and"
                " S3_SECRET_KEY, or AWS_PROFILE."
            )
        # Role credentials are renewed 10 minutes before they end, so they are kept no longer than
        # that.
        return Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
