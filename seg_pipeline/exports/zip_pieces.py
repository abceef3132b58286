"""Writes a ZIP file entry by entry, without holding it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import RawIOBase
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo


@dataclass(frozen=True)
class ZipEntry:
    """A file of a ZIP. `is_packed` says that compressing it would gain nothing."""

    name: str
    pieces: Iterable[bytes]
    is_packed: bool = False


class _Written(RawIOBase):
    """A file that cannot be read or sought, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def zip_pieces(entries: Iterable[ZipEntry], written_at: datetime) -> Iterator[bytes]:
    """The ZIP in pieces. The same entries and time give the same bytes."""
    written = _Written()
    with ZipFile(written, "w") as archive:
        for entry in entries:
            with archive.open(_info(entry, written_at), "w", force_zip64=True) as file:
                for piece in entry.pieces:
                    file.write(piece)
                    yield written.take()
            yield written.take()
    yield written.take()


def _info(entry: ZipEntry, written_at: datetime) -> ZipInfo:
    info = ZipInfo(entry.name, date_time=written_at.timetuple()[:6])
    info.compress_type = ZIP_STORED if entry.is_packed else ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info
