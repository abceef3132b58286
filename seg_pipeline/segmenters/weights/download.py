"""Downloads a file of weights: once for all processes, resumable, and checked before use."""

import fcntl
import logging
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from seg_pipeline.segmenters.weights.digest import record_of, verified, weights_sha256
from seg_pipeline.segmenters.weights.published import PUBLISHED_SHA256
from seg_pipeline.telemetry.activity import ACTIVITY

MAX_WEIGHTS_BYTES = 4 * 2**30
DEADLINE_SECONDS = 3600
"""For the whole of a download with all its tries, however steadily the file's bytes come."""

PAUSES_SECONDS = (0.5, 1, 2, 4)
"""Pauses between tries that brought no bytes. A try that brought some starts again at the first."""

Progress = Callable[[str, int, int | None], None]
"""Called with the name, the bytes so far and the total bytes, if known.

It is called at the begin and the end of a try, and a few times a second in between.
"""

logger = logging.getLogger(__name__)


class DownloadFailed(Exception):
    """Why the download failed."""


def log_progress(name: str, done_bytes: int, total_bytes: int | None) -> None:
    """Writes a line into the log."""
    of_total = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
    logger.info("downloading %s: %.0f%s MB", name, done_bytes / 1e6, of_total)


def download(url: str, target: Path, progress: Progress) -> Path:
    """Downloads the URL to `target`, whole or not at all. Raises DownloadFailed with the reason."""
    try:
        with _alone(target):
            if target.is_file():  # another process brought it while this one waited
                return verified(target)
            part = _ByteRange(target)
            _fetch_all(url, part, progress)
            return part.finish(PUBLISHED_SHA256.get(target.stem))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise DownloadFailed(_sentence(error)) from error


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Locks the download of this file against other threads and processes.

    The lock of a process that dies is released.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _ByteRange:
    """An incomplete download: the bytes so far, and the entity tag of their file."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._tag_path = target.with_name(f"{target.name}.part.etag")
        self.give_up_at = math.inf

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def range_headers(self) -> dict[str, str]:
        """Requests the rest, or the whole if the file has changed since; empty at the start."""
        tag = self._tag_path.read_text() if self._tag_path.exists() else ""
        return {"Range": f"bytes={self.size}-", "If-Range": tag} if tag and self.size else {}

    def begin(self, tag: str | None) -> None:
        """Starts anew. Without a strong entity tag the bytes cannot be resumed."""
        self.path.write_bytes(b"")
        self._tag_path.write_text(tag if tag and not tag.startswith("W/") else "")

    def append(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def finish(self, published_sha256: str | None) -> Path:
        """Moves the complete file into place and records its hash.

        A file that is not the published one is dropped.
        """
        digest = weights_sha256(self.path)
        if published_sha256 not in (None, digest):
            self.drop()
            raise _Unusable(
                f"what came has the SHA-256 {digest}, not the published {published_sha256}"
            )
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        record_of(self.target).write_text(f"{digest}  {self.target.name}\n")
        self._tag_path.unlink(missing_ok=True)
        self.path.replace(self.target)
        return self.target

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)


def _fetch_all(url: str, part: _ByteRange, progress: Progress) -> None:
    """Brings the whole file into `part`, resuming where a connection broke."""
    part.give_up_at = time.monotonic() + DEADLINE_SECONDS
    pauses = iter(PAUSES_SECONDS)
    with httpx.Client(timeout=httpx.Timeout(30, connect=10), follow_redirects=True) as client:
        while True:
            before = part.size
            try:
                _fetch_rest(client, url, part, progress)
                return
            except (httpx.TransportError, _TryAgain) as error:
                if part.size > before:
                    pauses = iter(PAUSES_SECONDS)
                pause = next(pauses, None)
                if pause is None or time.monotonic() > part.give_up_at:
                    raise
                logger.warning(
                    "download of %s: %s; again in %s s", part.target.name, _sentence(error), pause
                )
                time.sleep(pause)


def _fetch_rest(client: httpx.Client, url: str, part: _ByteRange, progress: Progress) -> None:
    headers = {"Accept-Encoding": "identity", **part.range_headers()}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code in (408, 416, 429) or response.status_code >= 500:
            if response.status_code == 416:
                part.drop()
            raise _TryAgain(f"HTTP {response.status_code}")
        response.raise_for_status()
        if response.status_code != 206:
            part.begin(response.headers.get("etag"))
        total = _total_bytes(response, part.size)
        _copy(response, part, total, progress)
    _check_complete(part, total)


def _total_bytes(response: httpx.Response, already: int) -> int | None:
    length = response.headers.get("content-length", "")
    total = already + int(length) if length.isdigit() else None
    if total is not None and total > MAX_WEIGHTS_BYTES:
        raise _Unusable(f"the file has {total} bytes, over the limit of {MAX_WEIGHTS_BYTES}")
    return total


def _copy(
    response: httpx.Response, part: _ByteRange, total: int | None, progress: Progress
) -> None:
    told_at = time.monotonic()
    progress(part.target.stem, part.size, total)
    try:
        for data in response.iter_bytes():  # as it comes: a megabyte of a trickle takes days
            part.append(data)
            ACTIVITY.mark()
            _check_bounds(part)
            if time.monotonic() - told_at > 0.2:
                progress(part.target.stem, part.size, total)
                told_at = time.monotonic()
    finally:
        progress(part.target.stem, part.size, total)


def _check_bounds(part: _ByteRange) -> None:
    """What came in time stays, and the next download goes on from there."""
    if part.size > MAX_WEIGHTS_BYTES:
        part.drop()
        raise _Unusable(f"the file goes on past the limit of {MAX_WEIGHTS_BYTES} bytes")
    if time.monotonic() > part.give_up_at:
        raise _Unusable(f"{part.size} bytes came in {DEADLINE_SECONDS} s, and not all")


def _check_complete(part: _ByteRange, total: int | None) -> None:
    """Checks the size, and that the file is a torch file.

    That is a zip, whose directory comes last. A truncated file or an error page is none.
    """
    if total is not None and part.size != total:
        raise _TryAgain(f"{part.size} of {total} bytes came")
    if not zipfile.is_zipfile(part.path):
        part.drop()
        raise _Unusable("what came is not a torch file")


class _TryAgain(httpx.HTTPError):
    """This try failed, the next may not."""


class _Unusable(httpx.HTTPError):
    """The URL does not return the weights."""


def _sentence(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return f"{type(error).__name__.lstrip('_')}: {error}"[:200]
