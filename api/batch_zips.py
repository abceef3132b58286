"""Reads a batch's ZIP of pictures, which a stranger made: bounded in files, bytes and names.

The names are never paths of ours: they are what the pictures are called. A file that cannot be a
picture is noted with its name, and the others go on.
"""

import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from api.batch_lists import Listing, check_name
from api.spool import Spool
from seg_pipeline.errors import BatchTooLarge, ImageError, ImageTooLarge, InvalidRequest
from seg_pipeline.imaging.headers import scan_header
from seg_pipeline.jobs.batch_records import Entry
from seg_pipeline.store.objects import PIECE_BYTES

MEDIA_TYPES = ("application/zip", "application/x-zip-compressed")

LARGEST_RATIO = 200
"""More than pictures ever unpack to, of a whole ZIP."""

ENTRY_BYTES = 256
"""Of the directory, for each file that a batch may have; names are shorter."""

_TAIL_BYTES = 22 + 2**16
_END = re.compile(rb"(?=PK\x05\x06.{8}(?P<size>.{4}))", re.DOTALL)
_END64 = re.compile(rb"(?=PK\x06\x06.{36}(?P<size>.{8}))", re.DOTALL)
_ENCRYPTED = 0x1
_JUNK = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$|\._)", re.IGNORECASE)
_UNREADABLE = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)

Keep = Callable[[int, Spool], None]
"""Keeps a picture under its place in the batch."""


@dataclass(frozen=True)
class ZipLimits:
    """What a ZIP may hold, and what reads a file of it."""

    unpacked_bytes: int
    image_bytes: int
    image_pixels: int
    spool: Callable[[], Spool]


def read_zip(file: BinaryIO, limits: ZipLimits, listing: Listing, keep: Keep) -> None:
    """Adds the pictures of a ZIP, in the order of its directory; `keep` gets each.

    Raises InvalidRequest for what is no ZIP, and BatchTooLarge before anything is unpacked.
    """
    check_directory(file, listing.limit)
    try:
        with ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if _is_meant(info)]
            _check_sizes(infos, file, limits, listing.limit)
            for info in infos:
                _read(archive, info, limits, listing, keep)
    except _UNREADABLE as error:
        raise InvalidRequest(f"the ZIP cannot be read: {_reason(error)}.") from error


def check_directory(file: BinaryIO, most_files: int) -> None:
    """Refuses a directory that is larger than so many files need: all of it is read at once."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL_BYTES - 2**10))
    tail = file.read()
    limit = ENTRY_BYTES * most_files + 2**16
    for claimed in _directory_sizes(tail):
        if claimed > limit:
            raise BatchTooLarge(
                f"the ZIP's directory has {claimed} bytes, more than {most_files} files need"
                " (MAX_BATCH_JOBS)."
            )


def _directory_sizes(tail: bytes) -> Iterator[int]:
    """The sizes that any end of a directory in these bytes claims, but for "see the larger one"."""
    for pattern in (_END, _END64):
        for found in pattern.finditer(tail):
            size = int.from_bytes(found["size"], "little")
            if size != 0xFFFFFFFF:
                yield size


def _is_meant(info: ZipInfo) -> bool:
    """Whether it is a file that somebody put there, and not what an operating system left."""
    return not info.is_dir() and not _JUNK.search(info.filename)


def _check_sizes(infos: list[ZipInfo], file: BinaryIO, limits: ZipLimits, most: int) -> None:
    """Raises BatchTooLarge or InvalidRequest by what the directory claims.

    No file yields more bytes than it claims.
    """
    packed, unpacked = (
        sum(info.compress_size for info in infos),
        sum(info.file_size for info in infos),
    )
    size = file.seek(0, 2)
    if len(infos) > most:
        raise BatchTooLarge(
            f"the ZIP has {len(infos)} files, more than MAX_BATCH_JOBS = {most}; send it in parts."
        )
    if packed > size:
        raise InvalidRequest("files of the ZIP overlap; make it anew.")
    if unpacked > min(limits.unpacked_bytes, LARGEST_RATIO * size + 2**20):
        raise BatchTooLarge(
            f"the ZIP of {size} bytes unpacks to {unpacked}, more than MAX_BATCH_ZIP_BYTES ="
            f" {limits.unpacked_bytes} or {LARGEST_RATIO} times as much."
        )


def _read(archive: ZipFile, info: ZipInfo, limits: ZipLimits, listing: Listing, keep: Keep) -> None:
    """Adds one file, or notes why it is no picture."""
    where = _shown(info.filename)
    if problem := _problem(info, limits, listing):
        listing.reject(where, *problem)
        return
    with limits.spool() as spool:
        try:
            _unpack(archive, info, spool)
            header = scan_header(spool.file, limits.image_pixels)
        except ImageError as error:
            listing.reject(where, error.code, str(error))
        except _UNREADABLE as error:
            listing.reject(where, "unreadable", f"it cannot be unpacked: {_reason(error)}.")
        else:
            keep(len(listing.entries), spool)
            name = info.filename
            listing.append(Entry(name, sha256=spool.sha256, extension=header.extension))


def _unpack(archive: ZipFile, info: ZipInfo, spool: Spool) -> None:
    with archive.open(info) as source:
        while piece := source.read(PIECE_BYTES):
            spool.write(piece)


def _problem(info: ZipInfo, limits: ZipLimits, listing: Listing) -> tuple[str, str] | None:
    """The code and the sentence, by the directory alone."""
    if name_problem := _name_problem(info.filename):
        return "invalid_name", name_problem
    if first := listing.claim(info.filename, _shown(info.filename)):
        return "duplicate", f"the ZIP has {first} twice; the first one counts."
    return _kind_problem(info, limits)


def _kind_problem(info: ZipInfo, limits: ZipLimits) -> tuple[str, str] | None:
    if info.flag_bits & _ENCRYPTED:
        return "encrypted", "it is encrypted; send it without a password."
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "not_a_file", "it is a link or a device, and no file."
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "unsupported_compression", "it must be stored or deflated."
    if info.file_size > limits.image_bytes:
        limit = f"more than MAX_IMAGE_BYTES = {limits.image_bytes}"
        return ImageTooLarge.code, f"it has {info.file_size} bytes, {limit}."
    return None


def _name_problem(name: str) -> str | None:
    """Why a name may not be: whoever reads the results may take it for a path."""
    with suppress(InvalidRequest):
        check_name(name)
        if not (name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")):
            return None
    return "a name must be a path below the ZIP's own folder, of characters that can be printed."


def _shown(name: str) -> str:
    """The name with nothing that a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in name[:200])


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
