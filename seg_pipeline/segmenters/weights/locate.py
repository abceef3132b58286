"""Where the weights of a model are, and how they come there: bundled, named by the operator, or downloaded once.

A .pt file is a pickle. Only files that the operator can vouch for are ever opened: those in the package, those named
in the settings and those in WEIGHTS_DIR; and segmenters open them restricted to data and known classes all the same.
"""

import fcntl
import hashlib
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import httpx

from seg_pipeline.domain import DEMO_MODELS, shown_model
from seg_pipeline.errors import WeightsMissing
from seg_pipeline.settings import Settings

BUNDLED = Path(__file__).parents[2] / "demo" / "weights"
MAX_WEIGHTS_BYTES = 4 * 2**30
DEADLINE_SECONDS = 3600
PAUSES_SECONDS = (0.5, 1, 2, 4)
"""Between tries that brought nothing; a try that brought bytes starts the row again."""

PUBLISHED_SHA256 = {
    "sam2_hiera_tiny": "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    "sam2_hiera_small": "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    "sam2_hiera_base_plus": "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    "sam2_hiera_large": "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    "sam2.1_hiera_tiny": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    "sam2.1_hiera_small": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    "sam2.1_hiera_base_plus": "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    "sam2.1_hiera_large": "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
}
"""What SAM-2's files have to be. Upstream's page names no hashes; these are in the registry of
computational-cell-analytics/micro-sam, those of `sam2_hiera_*` in mazurowski-lab/SlicerSegmentWithSAM too, and each in
several other projects. For Ultralytics' files, the same names in several releases, no such list was found: what comes
first is recorded, and held to from then on."""

Progress = Callable[[str, int, int | None], None]
"""Told the name, the bytes so far and the bytes in all, if known: when a try begins, when it ends, and some times a
second between."""

logger = logging.getLogger(__name__)


def weights_sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits; computed once for a path, size and time of writing."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def log_progress(name: str, done_bytes: int, total_bytes: int | None) -> None:
    """A line in the log."""
    of_total = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
    logger.info("downloading %s: %.0f%s MB", name, done_bytes / 1e6, of_total)


def published_url(name: str, settings: Settings) -> str | None:
    """Where the weights of a published model are, or None if nobody publishes them under this name."""
    if name.startswith("sam2"):
        from seg_pipeline.segmenters.sam2.segmenter import published_sam2_url

        return published_sam2_url(name)
    from seg_pipeline.segmenters.yolo.segmenter import published_yolo_url

    return published_yolo_url(name, settings.weights_dir)


def locate_weights(name: str, settings: Settings) -> Path:
    """The file with the weights of a model. Nothing is downloaded: that is no work for who has jobs to do.

    Raises WeightsMissing, which clients may read: where we looked is in the log alone.
    """
    places = _places(name, settings)
    for path in places:
        if path.is_file():
            return _verified(path)
    logger.warning("the weights of %s are not at %s", name, " or ".join(map(str, places)))
    bare = shown_model(name)
    if _is_path(name):
        raise WeightsMissing(f"the weights {bare} are not there; their operator has to put them back.")
    raise WeightsMissing(f"the weights of {bare} are not here yet; `seg-pipeline weights pull {bare}` brings them.")


def find_weights(
    name: str,
    settings: Settings,
    progress: Progress = log_progress,
    url_of: Callable[[str, Settings], str | None] = published_url,
) -> Path:
    """The file with the weights of a model, downloaded into WEIGHTS_DIR if it is nowhere yet.

    Raises WeightsMissing, which says where it looked and what to do.
    """
    places = _places(name, settings)
    for path in places:
        if path.is_file():
            return _verified(path)
    if Path(name).name != name:
        raise WeightsMissing(f"the weights {name} are not there; name an existing .pt file, or demo-yolo.")
    published_name = name.removesuffix(".pt")
    target = settings.weights_dir / f"{published_name}.pt"
    url = None if name in DEMO_MODELS else url_of(published_name, settings)
    if url is None:
        raise _missing(name, places, "and nobody publishes weights under this name")
    return _download(url, target, progress)


def _places(name: str, settings: Settings) -> list[Path]:
    if name in DEMO_MODELS:
        return [BUNDLED / f"{name}.pt"]
    if not _is_path(name):
        return [settings.weights_dir / f"{name}.pt"]
    if name not in settings.offered_models:
        raise WeightsMissing(
            f"model {name} is a path, and paths come from the settings MODEL, QUEUE_MODEL and MODELS alone."
        )
    return [Path(name), settings.weights_dir / name]


def _is_path(name: str) -> bool:
    return Path(name).name != name or name.endswith(".pt")


def _missing(name: str, places: list[Path], why: str) -> WeightsMissing:
    looked = " or ".join(str(path) for path in places)
    return WeightsMissing(
        f"the weights of {name} are not at {looked}, {why}; put the file there, or use demo-yolo, which needs none."
    )


def _verified(path: Path) -> Path:
    """The path, if the file is still the one whose hash was recorded when it was downloaded."""
    record = _record(path)
    if record.is_file() and record.read_text().split()[:1] != [weights_sha256(path)]:
        raise WeightsMissing(
            f"{path.name} is not the file that was downloaded: its SHA-256 differs from {record.name}; delete both to "
            "download it again, or that record to keep your own file."
        )
    return path


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


@lru_cache(maxsize=32)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, target: Path, progress: Progress) -> Path:
    try:
        with _alone(target):
            if target.is_file():  # another process brought it while this one waited
                return _verified(target)
            part = _Part(target)
            _fetch_all(url, part, progress)
            return part.finish(PUBLISHED_SHA256.get(target.stem))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _missing(target.stem, [target], f"and downloading them failed ({_sentence(error)})") from error


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Holds the download of this file against other threads and processes; one that dies lets go."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Part:
    """A download that is not complete: the bytes so far, and the entity tag of the file that they belong to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._tag_path = target.with_name(f"{target.name}.part.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def range_headers(self) -> dict[str, str]:
        """Asks for the rest, or for the whole if the file has changed since; nothing to ask for at the start."""
        tag = self._tag_path.read_text() if self._tag_path.exists() else ""
        return {"Range": f"bytes={self.size}-", "If-Range": tag} if tag and self.size else {}

    def begin(self, tag: str | None) -> None:
        """Starts from nothing; without a strong tag the bytes cannot be resumed."""
        self.path.write_bytes(b"")
        self._tag_path.write_text(tag if tag and not tag.startswith("W/") else "")

    def append(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def finish(self, published_sha256: str | None) -> Path:
        """Puts the complete file in its place, its hash beside it; drops it if it is not the one that is published."""
        digest = _sha256(self.path, self.size, self.path.stat().st_mtime_ns)
        if published_sha256 not in (None, digest):
            self.drop()
            raise _Unusable(f"what came has the SHA-256 {digest}, not the published {published_sha256}")
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        _record(self.target).write_text(f"{digest}  {self.target.name}\n")
        self._tag_path.unlink(missing_ok=True)
        self.path.replace(self.target)
        return self.target

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)


def _fetch_all(url: str, part: _Part, progress: Progress) -> None:
    """Brings the whole file into `part`, resuming where a connection broke."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
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
                if pause is None or time.monotonic() > give_up_at:
                    raise
                logger.warning("download of %s: %s; again in %s s", part.target.name, _sentence(error), pause)
                time.sleep(pause)


def _fetch_rest(client: httpx.Client, url: str, part: _Part, progress: Progress) -> None:
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


def _copy(response: httpx.Response, part: _Part, total: int | None, progress: Progress) -> None:
    told_at = time.monotonic()
    progress(part.target.stem, part.size, total)
    try:
        for data in response.iter_bytes(2**20):
            part.append(data)
            if part.size > MAX_WEIGHTS_BYTES:
                part.drop()
                raise _Unusable(f"the file goes on past the limit of {MAX_WEIGHTS_BYTES} bytes")
            if time.monotonic() - told_at > 0.2:
                progress(part.target.stem, part.size, total)
                told_at = time.monotonic()
    finally:
        progress(part.target.stem, part.size, total)


def _check_complete(part: _Part, total: int | None) -> None:
    """A torch file is a zip, whose directory comes last: one that is cut short, or an error page, is none."""
    if total is not None and part.size != total:
        raise _TryAgain(f"{part.size} of {total} bytes came")
    if not zipfile.is_zipfile(part.path):
        part.drop()
        raise _Unusable("what came is not a torch file")


class _TryAgain(httpx.HTTPError):
    """This try failed, the next may not."""


class _Unusable(httpx.HTTPError):
    """The address does not give the weights."""


def _sentence(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return f"{type(error).__name__.lstrip('_')}: {error}"[:200]
