"""Lists of addresses: what is read, and what is said of the rest."""

from io import BytesIO
from typing import Any

import pytest

from api.batch_lists import JSON_LINES, PLAIN, Listing, read_json, read_lines
from seg_pipeline.errors import BatchTooLarge, InvalidRequest

A, B = "https://pictures.example/a.png", "s3://pictures/b c.png"


class Raw(BytesIO):
    """As a spool's file is: read without a buffer of its own."""


def read(text: str | bytes, kind: str = PLAIN, limit: int = 10) -> Listing:
    data = text.encode() if isinstance(text, str) else text
    listing = Listing(limit)
    read_lines(Raw(data), kind, listing)
    return listing


def rejected(listing: Listing) -> list[tuple[str, str]]:
    return [(problem.where, problem.code) for problem in listing.problems]


@pytest.mark.parametrize("text", [f"{A}\n{B}\n", f"{A}\r\n\r\n{B}", f"\ufeff{A}\n# two\n {B} \n"])
def test_plain_text_has_an_address_a_line(text: str) -> None:
    listing = read(text)
    assert [entry.address for entry in listing.entries] == [A, B]
    assert listing.rejected == 0


def test_json_lines_are_addresses_or_objects_with_names() -> None:
    listing = read(f'"{A}"\n{{"image_url": "{B}", "name": "b"}}\n', JSON_LINES[0])
    assert [(entry.address, entry.name) for entry in listing.entries] == [(A, A), (B, "b")]


def test_broken_lines_are_named_and_the_others_go_on() -> None:
    lines = [A, "hello", "ftp://x/y", "https://user:pw@x/", B]
    listing = read("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert [entry.address for entry in listing.entries] == [A, B]
    assert rejected(listing) == [
        ("line 2", "invalid_url"),
        ("line 3", "invalid_url"),
        ("line 4", "invalid_url"),
        ("line 6", "invalid_request"),
    ]


@pytest.mark.parametrize(
    "line",
    ["{", "17", "null", "[]", '{"url": "x"}', f'{{"image_url": "{A}", "size": 1}}',
     f'{{"image_url": "{A}", "name": 1}}', f'{{"image_url": "{A}", "name": "a\\nb"}}'],
)  # fmt: skip
def test_a_line_of_json_that_is_no_entry_is_named(line: str) -> None:
    listing = read(f"{line}\n", JSON_LINES[0])
    assert listing.entries == []
    assert rejected(listing) == [("line 1", "invalid_request")]


def test_an_address_that_is_there_twice_is_one_job() -> None:
    listing = read(f"{A}\n{B}\n{A}\n")
    assert len(listing.entries) == 2
    assert rejected(listing) == [("line 3", "duplicate")]
    assert "line 1" in listing.problems[0].message


def test_too_many_addresses_are_refused_and_not_cut() -> None:
    lines = "".join(f"https://pictures.example/{number}\n" for number in range(4))
    with pytest.raises(BatchTooLarge, match="MAX_BATCH_JOBS = 3"):
        read(lines, limit=3)


def test_of_very_many_broken_lines_the_first_are_kept() -> None:
    listing = read("x\n" * 5000)
    assert (listing.rejected, len(listing.problems)) == (5000, 100)


def test_a_list_without_an_address_says_what_is_wrong_with_its_first_line() -> None:
    with pytest.raises(InvalidRequest, match="none of 2 is a picture's address; line 1: "):
        read("x\ny\n").checked()
    with pytest.raises(InvalidRequest, match="empty"):
        read("\n# nothing\n").checked()


@pytest.mark.parametrize(
    ("data", "fields"), [(b"[1]", {"image_urls": [1]}), (b'{"a": 1}', {"a": 1})]
)
def test_json_is_an_object_or_a_list(data: bytes, fields: dict[str, Any]) -> None:
    assert read_json(data) == fields


@pytest.mark.parametrize("data", [b"", b"{", b"1", b"[" * 100_000, b"\xff"])
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_json(data)
