"""ZIPs of pictures: what is taken, and what is refused before it does harm."""

import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile, ZipInfo

import httpx
import pytest

from api.batch_lists import Listing
from api.batch_zips import ZipLimits, check_directory, read_zip
from api.spool import Spool
from seg_pipeline.errors import BatchTooLarge, InvalidRequest
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.store import Store, keys
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.builders import make_picture, picture_bytes

PICTURE = picture_bytes()
Made = tuple[str | ZipInfo, bytes]


def zipped(*files: Made, compression: int = ZIP_DEFLATED) -> bytes:
    """A ZIP of these files."""
    buffer = BytesIO()
    with ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two files with one name
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Listing]:
    """Reads a ZIP; the names of what was kept are those of the entries."""

    def read(data: bytes, limit: int = 10, **values: Any) -> Listing:
        limits = {"unpacked_bytes": 2**24, "image_bytes": 2**20, "image_pixels": 10**6, **values}
        kept: dict[int, bytes] = {}

        def keep(index: int, spool: Spool) -> None:
            spool.file.seek(0)
            kept[index] = spool.file.read()

        listing = Listing(limit)
        spool = lambda: Spool(tmp_path, lambda _: None)  # noqa: E731
        read_zip(BytesIO(data), ZipLimits(**limits, spool=spool), listing, keep)
        assert [fingerprint(kept[index]) for index in range(len(kept))] == [
            entry.sha256 for entry in listing.entries
        ]
        return listing

    return read


def codes(listing: Listing) -> dict[str, str]:
    return {problem.where: problem.code for problem in listing.problems}


def test_pictures_are_taken_with_their_paths_as_names(read: Callable[..., Listing]) -> None:
    other = picture_bytes(make_picture(seed=1), "JPEG")
    listing = read(zipped(("a.png", PICTURE), ("deep/er/b.jpg", other), ("deep/", b"")))
    found = [(entry.name, entry.extension) for entry in listing.entries]
    assert found == [("a.png", "png"), ("deep/er/b.jpg", "jpg")]
    assert listing.rejected == 0


def test_the_same_picture_under_two_names_is_two_entries(read: Callable[..., Listing]) -> None:
    assert len(read(zipped(("a.png", PICTURE), ("b.png", PICTURE))).entries) == 2


def test_what_systems_leave_in_a_zip_counts_as_nothing(read: Callable[..., Listing]) -> None:
    junk = ("__MACOSX/._a.png", ".DS_Store", "x/.DS_Store", "x/Thumbs.db", "x/._b.png")
    listing = read(zipped(("a.png", PICTURE), *((name, b"x") for name in junk)))
    assert (len(listing.entries), listing.rejected) == (1, 0)


def test_what_is_no_picture_is_named_and_the_others_go_on(read: Callable[..., Listing]) -> None:
    listing = read(zipped(("README.txt", b"hello"), ("empty.png", b""), ("a.png", PICTURE)))
    assert [entry.name for entry in listing.entries] == ["a.png"]
    assert codes(listing) == {"README.txt": "not_an_image", "empty.png": "empty_image"}


@pytest.mark.parametrize(
    "name", ["/etc/passwd.png", "../a.png", "x/../../a.png", "C:/a.png", "a\\b.png", "a\x1b[2J.png"]
)
def test_a_name_that_could_be_a_path_elsewhere_is_refused(
    read: Callable[..., Listing], name: str
) -> None:
    listing = read(zipped((name, PICTURE), ("a.png", PICTURE)))
    assert [entry.name for entry in listing.entries] == ["a.png"]
    assert [problem.code for problem in listing.problems] == ["invalid_name"]
    assert "\x1b" not in listing.problems[0].where


def test_of_two_files_with_one_name_the_first_counts(read: Callable[..., Listing]) -> None:
    other = picture_bytes(make_picture(seed=1))
    listing = read(zipped(("a.png", PICTURE), ("a.png", other)))
    assert [entry.sha256 for entry in listing.entries] == [fingerprint(PICTURE)]
    assert codes(listing) == {"a.png": "duplicate"}


def test_links_are_no_pictures(read: Callable[..., Listing]) -> None:
    link = ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    assert codes(read(zipped((link, b"/etc/passwd")))) == {"link.png": "not_a_file"}


def test_encrypted_files_are_named(read: Callable[..., Listing]) -> None:
    data = bytearray(zipped(("a.png", PICTURE)))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x03\x04") + 6] |= 1
    assert codes(read(bytes(data))) == {"a.png": "encrypted"}


def test_a_compression_that_takes_memory_at_will_is_not_unpacked(
    read: Callable[..., Listing],
) -> None:
    listing = read(zipped(("a.png", PICTURE), compression=ZIP_LZMA))
    assert codes(listing) == {"a.png": "unsupported_compression"}


def test_a_picture_of_too_many_bytes_is_not_unpacked(read: Callable[..., Listing]) -> None:
    listing = read(zipped(("a.png", PICTURE)), image_bytes=len(PICTURE) - 1)
    assert codes(listing) == {"a.png": "image_too_large"}


def test_a_damaged_file_is_named_and_the_others_go_on(read: Callable[..., Listing]) -> None:
    data = bytearray(zipped(("a.png", PICTURE), ("b.png", PICTURE)))
    data[60] ^= 0xFF
    listing = read(bytes(data))
    assert [entry.name for entry in listing.entries] == ["b.png"]
    assert codes(listing) == {"a.png": "unreadable"}


def test_a_bomb_is_refused_before_it_is_unpacked(read: Callable[..., Listing]) -> None:
    bomb = zipped(*((f"{number}.png", bytes(2**20)) for number in range(4)))
    assert len(bomb) < 10_000
    with pytest.raises(BatchTooLarge, match="unpacks to 4194304"):
        read(bomb)


def test_files_that_share_their_bytes_are_refused(read: Callable[..., Listing]) -> None:
    """A quoted bomb: each entry of the directory leads to the same data."""
    one = zipped(("a.png", PICTURE))
    begin, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    directory = one[begin:end] * 5
    tail = bytearray(one[end:])
    tail[8:12] = struct.pack("<HH", 5, 5)
    tail[12:16] = struct.pack("<I", len(directory))
    with pytest.raises(InvalidRequest, match="overlap"):
        read(one[:begin] + directory + bytes(tail))


def test_too_many_files_are_refused(read: Callable[..., Listing]) -> None:
    data = zipped(*((f"{number}.png", PICTURE) for number in range(4)))
    with pytest.raises(BatchTooLarge, match="4 files, more than MAX_BATCH_JOBS = 3"):
        read(data, limit=3)


@pytest.mark.parametrize("zip64", [False, True])
def test_a_huge_directory_is_refused_before_it_is_read(zip64: bool) -> None:
    end = b"PK\x05\x06" + bytes(8) + struct.pack("<I", 2**31) + bytes(6)
    end64 = b"PK\x06\x06" + bytes(36) + struct.pack("<Q", 2**40) + bytes(8)
    with pytest.raises(BatchTooLarge, match="directory"):
        check_directory(BytesIO(end64 if zip64 else end), 10)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x05\x06", b"hello" * 100, zipped(("a.png", PICTURE))[:-30]]
)
def test_what_is_no_zip_is_refused(read: Callable[..., Listing], data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read(data)


def test_a_zip_becomes_a_batch(serve: Serve, api_store: Store) -> None:
    client = serve()
    data = zipped(("a.png", PICTURE), ("b/c.png", PICTURE), ("README.txt", b"x"))
    answer = post(client, data, uuid="summer", model="demo-yolo")
    assert answer.status_code == 202
    assert (answer.json()["total"], answer.json()["rejected"]) == (2, 1)
    page = client.get("/batches/summer/jobs").json()
    assert [job["name"] for job in page["jobs"]] == ["a.png", "b/c.png"]
    assert len(api_store.list(f"{keys.BATCHES}summer/pictures/")) == 2
    assert post(client, data, uuid="summer", model="demo-yolo").status_code == 200


def test_a_zip_of_too_many_bytes_is_refused(serve: Serve) -> None:
    answer = post(serve(max_batch_zip_bytes=50), zipped(("a.png", PICTURE)))
    assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")


def post(client: httpx.Client, data: bytes, **query: str) -> httpx.Response:
    """Sends a ZIP."""
    headers = {"content-type": "application/zip"}
    return client.post("/batches", params=query, content=data, headers=headers)


def test_a_zip_in_a_zip_is_no_picture_and_is_not_unpacked(read: Callable[..., Listing]) -> None:
    listing = read(zipped(("a.png", PICTURE), ("inner.zip", zipped(("b.png", PICTURE)))))
    assert [entry.name for entry in listing.entries] == ["a.png"]
    assert codes(listing) == {"inner.zip": "not_an_image"}


@pytest.mark.parametrize("named", [b"%06d.png", b"../../%06d"])
def test_a_hundred_thousand_files_are_refused_as_a_whole(
    read: Callable[..., Listing], named: bytes
) -> None:
    """More than a batch may have, in a directory of six megabytes that is not read for that."""
    names = [named % number for number in range(100_000)]
    head = b"PK\x01\x02" + bytes(24) + struct.pack("<H", len(names[0])) + bytes(16)
    directory = b"".join(head + name for name in names)
    end = (
        b"PK\x05\x06" + bytes(4) + struct.pack("<HHII", 65535, 65535, len(directory), 0) + bytes(2)
    )
    with pytest.raises(BatchTooLarge, match="more than 10000 files need"):
        read(directory + end, limit=10_000)


def test_names_that_are_paths_are_counted_all_and_named_in_part(
    read: Callable[..., Listing],
) -> None:
    bad = [(f"../{number}.png", PICTURE) for number in range(500)]
    listing = read(zipped(("a.png", PICTURE), *bad), limit=1000)
    assert (len(listing.entries), listing.rejected, len(listing.problems)) == (1, 500, 100)
