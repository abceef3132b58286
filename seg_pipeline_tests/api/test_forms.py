"""Multipart forms as the world's clients write them: which part is the picture, and what is said of
a broken one."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from api.forms import Form, FormReader
from seg_pipeline.errors import InvalidRequest
from seg_pipeline_tests.builders import picture_bytes

PICTURE = picture_bytes()
FIELDS = ("uuid", "model", "parameters")
END = b"--B--\r\n"


def part(disposition: str, data: bytes, *headers: str) -> bytes:
    lines = (f"Content-Disposition: form-data; {disposition}", *headers, "", "")
    return b"--B\r\n" + "\r\n".join(lines).encode() + data + b"\r\n"


FILLED = part('name="image"; filename="a.png"', PICTURE, "Content-Type: image/png")
BLANK = part('name="mask"; filename=""', b"", "Content-Type: application/octet-stream")


def read(
    *pieces: bytes, end: bytes = END, content_type: str = "multipart/form-data; boundary=B"
) -> tuple[Form, bytes]:
    """The form and its picture's bytes, from a body that comes in these pieces."""
    written: list[bytes] = []
    reader = FormReader(content_type, FIELDS, written.append)
    for piece in (*pieces, end):
        reader.feed(piece)
    return reader.finish(), b"".join(written)


@pytest.mark.parametrize(
    ("disposition", "headers"),
    [
        ('name="image"; filename="a.png"', ["Content-Type: image/png"]),
        ('name="image"; filename="a.png"', []),
        ('name="image"; filename=""', ["Content-Type: image/png"]),
        ('name="image"', ["Content-Type: image/png"]),
        ('name="image"', ["Content-Type: application/octet-stream"]),
        ('name="image"', []),
        ('name="image"', ["Content-Type: text/plain"]),
        ('name="image"', ["Content-Transfer-Encoding: binary"]),
        ('name="uuid"; filename="a.png"', ["Content-Type: image/png"]),
        ('name="file[]"; filename="a\\"b;c.png"', []),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_picture_is_one_whatever_its_part_leaves_out(
    disposition: str, headers: Sequence[str], size: int
) -> None:
    """node's form-data with a Buffer and RestSharp give no file name; others give no content
    type."""
    body = part(disposition, PICTURE, *headers) + part('name="uuid"', b"mine")
    form, picture = read(*(body[start : start + size] for start in range(0, len(body), size)))
    assert (form, picture) == (Form({"uuid": "mine"}, has_picture=True), PICTURE)


@pytest.mark.parametrize("parts", [(FILLED, BLANK), (BLANK, FILLED), (BLANK, FILLED, BLANK)])
def test_a_file_input_that_was_left_blank_is_nothing(parts: tuple[bytes, ...]) -> None:
    assert read(*parts) == (Form({}, has_picture=True), PICTURE)
    assert read(BLANK) == (Form({}, has_picture=False), b"")


def test_an_empty_file_with_a_name_is_an_empty_picture() -> None:
    assert read(part('name="image"; filename="a.png"', b"")) == (Form({}, has_picture=True), b"")


@pytest.mark.parametrize(
    ("disposition", "headers"),
    [
        ('name="parameters"', []),
        ('name="parameters"', ["Content-Type: application/json"]),
        ('name="parameters"; filename="blob"', ["Content-Type: application/json"]),
        ('name="parameters"', ["Content-Type: application/octet-stream"]),
        ("name=parameters", ["Content-Type: text/plain; charset=utf-8"]),
    ],
)
def test_a_field_is_one_whatever_its_part_says_besides(
    disposition: str, headers: Sequence[str]
) -> None:
    """Browsers send a Blob's JSON with a file name and a type."""
    form, _ = read(FILLED, part(disposition, b'{"confidence": 0.5}', *headers))
    assert form.fields == {"parameters": '{"confidence": 0.5}'}


@pytest.mark.parametrize(
    ("value", "content_type", "more", "expected"),
    [
        ("ü".encode(), "multipart/form-data; boundary=B", b"", "ü"),
        ("ü".encode("latin-1"), "multipart/form-data; boundary=B", b"", "ü"),
        ("ü".encode("latin-1"), "multipart/form-data; charset=latin-1; boundary=B", b"", "ü"),
        (
            "ü".encode("utf-16"),
            'multipart/form-data; boundary="B"',
            part('name="_charset_"', b"utf-16"),
            "ü",
        ),
        (b"\xfc", "multipart/form-data; boundary=B", part('name="_charset_"', b"rot13"), "ü"),
    ],
)
def test_fields_are_in_the_encoding_that_the_form_names(
    value: bytes, content_type: str, more: bytes, expected: str
) -> None:
    form, _ = read(part('name="model"', value), more, content_type=content_type)
    assert form.fields == {"model": expected}


@pytest.mark.parametrize(
    ("body", "end", "sentence"),
    [
        (
            FILLED[: len(FILLED) // 2],
            b"",
            "breaks off after .* bytes, before its closing boundary --B--",
        ),
        (FILLED, b"", "breaks off"),
        (FILLED, b"--B", "breaks off"),
        (b"", b"", "breaks off after 0 bytes"),
        (PICTURE, b"", "cannot be read"),
        (FILLED + FILLED, END, "more than one file"),
        (FILLED + part('name="mask"; filename="b.png"', b"hello"), END, "more than one file"),
        (part('filename="a.png"', PICTURE), END, "has no name"),
        (b"--B\r\n\r\nhello\r\n", END, "has no name"),
        (part('name="model"', b"x" * 9000), END, "'model' .* more than 8192 bytes"),
        (
            b"".join(part(f'name="f{number}"', b"x") for number in range(17)),
            END,
            "more than 16 fields",
        ),
        (BLANK * 33, END, "more than 32 parts"),
        (
            part('name="a"; filename="a"', b"aGVsbG8=", "Content-Transfer-Encoding: base64"),
            END,
            "base64",
        ),
        (
            part('name="a"', b"", "Content-Type: multipart/mixed; boundary=C"),
            END,
            "multipart/mixed",
        ),
    ],
)
def test_what_is_wrong_with_a_form_is_said(body: bytes, end: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body, end=end)
    assert re.search(sentence, str(caught.value))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "B" * 300,
    ],
)
def test_a_boundary_that_cannot_be_is_said(content_type: str) -> None:
    with pytest.raises(InvalidRequest, match=r"(?i)boundary"):
        read(FILLED, content_type=content_type)


def test_what_the_picture_writer_says_is_passed_on() -> None:
    def full(_: bytes) -> Any:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        FormReader("multipart/form-data; boundary=B", FIELDS, full).feed(FILLED)
