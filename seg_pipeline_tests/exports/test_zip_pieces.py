"""A ZIP in pieces is one that every reader opens."""

from collections.abc import Iterator
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from seg_pipeline.exports.zip_pieces import ZipEntry, zip_pieces
from seg_pipeline_tests.builders import NOON


def entries() -> Iterator[ZipEntry]:
    yield ZipEntry("a/text.txt", [b"one " * 1000, b"two"])
    yield ZipEntry("b.png", [b"\x89PNG"], is_packed=True)
    yield ZipEntry("empty.txt", [])


def test_every_entry_comes_back_with_its_name_and_time() -> None:
    with ZipFile(BytesIO(b"".join(zip_pieces(entries(), NOON)))) as archive:
        assert archive.testzip() is None
        assert archive.read("a/text.txt") == b"one " * 1000 + b"two"
        assert archive.read("empty.txt") == b""
        text, png, _ = archive.infolist()
    assert (text.compress_type, png.compress_type) == (ZIP_DEFLATED, ZIP_STORED)
    assert text.date_time == (2026, 1, 2, 12, 0, 0)


def test_the_same_entries_give_the_same_bytes() -> None:
    assert [*zip_pieces(entries(), NOON)] == [*zip_pieces(entries(), NOON)]


def test_an_entry_is_on_its_way_before_the_next_is_made() -> None:
    made: list[str] = []

    def noted() -> Iterator[ZipEntry]:
        for entry in entries():
            made.append(entry.name)
            yield entry

    pieces = zip_pieces(noted(), NOON)
    next(pieces)
    assert made == ["a/text.txt"]
