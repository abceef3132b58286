"""A store in folders of this machine, on the standard library alone.

obstore's own local store is not used: it follows symbolic links out of the folder (in listings
too), never syncs, and lists in no order. It distinguishes a full disk from other errors only by
prose.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from seg_pipeline.errors import ObjectNotFound, StoreUnavailable
from seg_pipeline.store import keys
from seg_pipeline.store.checking import check_round_trip
from seg_pipeline.store.failures import translated
from seg_pipeline.store.objects import PIECE_BYTES, ObjectInfo, T, keep_none

_TRIES = 20  # of a write whose folder is being deleted


class FolderStore:
    """`assets/…` below one folder, all other keys below another; both are made on the first write.

    A reader sees an old object or a new one, never half of one. A write goes to a hidden file
    beside it, which is then renamed. For `create` it is linked, so the file system must support
    hard links. Writes survive a killed process.

    Some writes must survive a power cut, because only the client could send the data again:
    requests, sources, idempotency keys, inbox and parked markers. They are synced to the disk
    before a call returns, in some 8 ms. Results and pictures are not synced, since a job can be run
    again. Those of the last half minute before the cut may be gone or empty.

    Symbolic links below the two folders are not followed: to every call they are no objects. The
    folders themselves may be links. Any number of processes may share the folders, forked ones too.
    """

    def __init__(self, assets: Path, state: Path) -> None:
        self._assets = assets
        self._state = state

    def put(self, key: str, data: bytes) -> None:
        self._write(key, partial(_write_file, data), _replace)

    def put_file(self, key: str, file: BinaryIO) -> None:
        """On the same file system the file itself becomes the object. Elsewhere it is copied."""
        self._write(key, partial(_take_over, file), _replace)

    def create(self, key: str, data: bytes, *, lasting: bool = True) -> bool:
        return self._write(key, partial(_write_file, data), _link, lasting)

    def copy(self, key: str, target: str) -> None:
        """A second name of the same file: nothing here writes into a file that is there.

        The name is not synced.
        """
        with translated(key):
            source = self._path(key)
            _info(key, source.lstat())  # a missing object, a link or a pipe is none
        try:
            os.link(source, self._path(target), follow_symlinks=False)
        except OSError:  # no folder yet, an object of that name, or another file system
            self._write(target, partial(_link_beside, source), _replace, lasting=False)

    def get(self, key: str) -> bytes:
        with translated(key), os.fdopen(self._open(key), "rb") as file:
            return file.read()

    def stream(self, key: str) -> Iterator[bytes]:
        with translated(key):
            return _Pieces(key, self._open(key))

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with translated(key):
                return _info(key, self._path(key).lstat())
        except ObjectNotFound:
            return None

    def list(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> list[ObjectInfo]:
        """All names are read, but only the returned objects are examined."""
        keys.check_prefix(prefix)
        with translated(prefix):
            return [*islice(self._objects(prefix, after or ""), limit)]

    def count(self, prefix: str) -> int:
        return sum(not name.endswith("/") for name, _ in self._entries(prefix))

    def list_folders(
        self, prefix: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[str]:
        keys.check_prefix(prefix)
        with translated(prefix):
            names = (name for name, _ in self._entries(prefix))
            folders = (name for name in names if name.endswith("/") and name > f"{after or ''}/")
            return [
                *islice((name[:-1] for name in folders if self.list(prefix + name, limit=1)), limit)
            ]

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound), translated(key):
            self._path(key).unlink()

    def delete_folder(self, prefix: str, keep: Callable[[str], bool] = keep_none) -> int:
        """The folder itself and empty folders in it are removed too."""
        with translated(prefix):
            count = sum(not keep(info.key) for info in self.list(prefix))
            with suppress(ObjectNotFound, FileNotFoundError):
                _remove(self._folder(prefix), lambda path: keep(prefix + path))
            return count

    def at_once(self, calls: Sequence[Callable[[], T]]) -> Sequence[T]:
        """The calls run in turn: threads would only slow them down."""
        return [call() for call in calls]

    def url(self, key: str, base_url: str) -> str:
        return f"{base_url.rstrip('/')}/{keys.check_key(key)}"

    def file_name(self, key: str) -> str:
        """The path below `/assets/`."""
        return keys.check_key(key).removeprefix(keys.ASSETS)

    def check(self) -> None:
        """Both folders are checked."""
        check_round_trip(self, keys.CHECKS)
        check_round_trip(self, keys.ASSETS)

    def _folder(self, prefix: str) -> Path:
        """The folder of a prefix, which need not exist; ObjectNotFound if a link leads there."""
        return self._path(f"{keys.check_prefix(prefix)}_").parent

    def _path(self, key: str) -> Path:
        """The path of a key, which need not exist; ObjectNotFound if a link leads there."""
        keys.check_key(key)
        in_assets = key.startswith(keys.ASSETS)
        path = self._assets if in_assets else self._state
        *folders, name = key.removeprefix(keys.ASSETS if in_assets else "").split("/")
        for folder in folders:
            path = path / folder
            if path.is_symlink():
                raise ObjectNotFound(f"no object {key}: {folder} is a symbolic link.")
        return path / name

    def _open(self, key: str) -> int:
        # Without O_NONBLOCK, opening a pipe that somebody left there would wait for ever.
        descriptor = os.open(
            self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ObjectNotFound(f"no object {key}.")
        return descriptor

    def _write(
        self,
        key: str,
        fill: Callable[[Path, bool], None],
        publish: Callable[[Path, Path], bool],
        lasting: bool = True,
    ) -> bool:
        keys.check_key(key)
        synced = lasting and _is_only_copy(key)
        try:
            with translated(key):
                return _write_beside(self._path(key), fill, publish, synced)
        except ObjectNotFound as error:  # a file or a link stands where the key needs a folder
            raise StoreUnavailable(f"the store cannot write {key}: {error}") from error

    def _entries(self, prefix: str) -> "Sequence[tuple[str, os.DirEntry[str]]]":
        """Files and folders, sorted as their keys are: `a-b` < `a/` < `a0`.

        A folder's name ends in `/`.
        """
        try:
            with translated(prefix), os.scandir(self._folder(prefix)) as entries:
                return sorted(
                    ((name, entry) for entry in entries if (name := _listed_name(entry))),
                    key=itemgetter(0),
                )
        except ObjectNotFound:
            return []

    def _objects(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        for name, entry in self._entries(prefix):
            key = prefix + name
            if name.endswith("/"):
                if key > after or after.startswith(key):
                    yield from self._objects(key, after)
            elif key > after:
                with suppress(FileNotFoundError, ObjectNotFound):
                    yield _info(key, entry.stat(follow_symlinks=False))


class _Pieces:
    """A file in pieces. It is closed at its end, or when the iterator is garbage."""

    def __init__(self, key: str, descriptor: int) -> None:
        self._key = key
        self._descriptor: int | None = descriptor

    def __iter__(self) -> "_Pieces":
        return self

    def __next__(self) -> bytes:
        if self._descriptor is None:
            raise StopIteration
        with translated(self._key):
            piece = os.read(self._descriptor, PIECE_BYTES)
        if not piece:
            self.close()
            raise StopIteration
        return piece

    def close(self) -> None:
        """Closes the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    __del__ = close


def _is_only_copy(key: str) -> bool:
    name = key.rpartition("/")[2]
    markers = (keys.FETCHING, keys.INBOX, keys.PARKED, keys.IDEMPOTENCY)
    is_source = name.startswith("source.") and not keys.is_fetched(key)
    is_client_s = is_source or name == "request.json" or _is_of_a_batch_s_client(key)
    return key.startswith(markers) or is_client_s


def _is_of_a_batch_s_client(key: str) -> bool:
    """Whether it is what a client sent as a batch, or the marker that leads to it."""
    if key.startswith(keys.BATCH_WORK):
        return "@" not in key
    name = key.rpartition("/")[2]
    of_ours = ("progress.json", "delivery.json", "delivery-webhook.json")
    return key.startswith(keys.BATCHES) and name not in of_ours


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    if not stat.S_ISREG(status.st_mode):
        raise ObjectNotFound(f"no object {key}.")
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), etag)


def _listed_name(entry: "os.DirEntry[str]") -> str | None:
    if not keys.is_key(entry.name):
        return None  # half-written, or a stranger's
    if entry.is_dir(follow_symlinks=False):
        return f"{entry.name}/"
    return entry.name if entry.is_file(follow_symlinks=False) else None


def _write_beside(
    path: Path,
    fill: Callable[[Path, bool], None],
    publish: Callable[[Path, Path], bool],
    synced: bool,
) -> bool:
    for left in reversed(range(_TRIES)):
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            fill(half, synced)
            done = publish(half, path)
        except FileNotFoundError:  # somebody removed the folder after we made it
            if not left:
                raise
            continue
        finally:
            half.unlink(missing_ok=True)
        if synced:
            _sync_folder(path.parent)
            _sync_folder(path.parent.parent)
        return done
    raise AssertionError("unreachable")


def _write_file(data: bytes, path: Path, synced: bool) -> None:
    with path.open("xb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        if synced and data:
            os.fsync(file.fileno())


def _link_beside(source: Path, path: Path, synced: bool) -> None:
    """Links the file, or copies it where the two lie on different file systems."""
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, path)


def _take_over(file: BinaryIO, path: Path, synced: bool) -> None:
    """Links the open file to the path, or copies it where the system cannot do that."""
    try:
        _name_file(file, path)
    except OSError:
        file.seek(0)
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy, PIECE_BYTES)
            copy.flush()
            _sync_file(copy, synced)
    else:
        _sync_file(file, synced)


def _name_file(file: BinaryIO, path: Path) -> None:
    """Links a file without a name to the path.

    `os.link` follows the link in /proc only if it is given a folder's descriptor too.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _sync_file(file: BinaryIO, synced: bool) -> None:
    if synced:
        os.fsync(file.fileno())


def _replace(half: Path, path: Path) -> bool:
    half.replace(path)
    return True


def _link(half: Path, path: Path) -> bool:
    try:
        os.link(half, path)
    except FileExistsError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path, keep: Callable[[str], bool]) -> None:
    """Removes the folder and all in it.

    Links are removed, and not their targets. Files that are written meanwhile may stay. Files stay
    for which `keep` is true; it gets their paths below the folder.
    """
    for root, folders, files, descriptor in os.fwalk(folder, topdown=False, onerror=_unless_gone):
        below = Path(root).relative_to(folder)
        for name in files:
            if not keep((below / name).as_posix()):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)
        for name in folders:
            _remove_empty(name, descriptor)
    _remove_empty(folder)


def _remove_empty(folder: str | Path, descriptor: int | None = None) -> None:
    try:
        os.rmdir(folder, dir_fd=descriptor)
    except FileNotFoundError:
        pass
    except NotADirectoryError:  # a link to a folder
        os.unlink(folder, dir_fd=descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
