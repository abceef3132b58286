"""Multipart forms (RFC 7578), read as they arrive: which part is a field, which the picture."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from seg_pipeline.errors import InvalidRequest
from seg_pipeline.imaging.headers import SIGNATURE_BYTES, has_known_signature

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 32
MAX_FIELDS = 16
MAX_FIELD_BYTES = 8 * 2**10

_PLAIN_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})
_CHARSET_FIELD = "_charset_"
"""RFC 7578, section 4.6: this field names the encoding of the others."""

_BLOB = "blob"
"""The file name that browsers give to a `Blob` without one, even for a field's JSON."""


@dataclass(frozen=True)
class Form:
    """A form's text fields, and whether it has a picture."""

    fields: dict[str, str]
    has_picture: bool


@dataclass
class _FormPart:
    """A part: its header fields, and the data that is kept of it."""

    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    data: bytearray = field(default_factory=bytearray)
    is_picture: bool | None = None
    """None until enough data has come to tell."""

    @property
    def content_type(self) -> str:
        """The media type without its parameters; empty if none is given."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_text(self) -> bool:
        """Whether the sender calls it text, or does not say."""
        return self.content_type in ("", "application/json") or self.content_type.startswith(
            "text/"
        )

    @property
    def is_blank(self) -> bool:
        """Whether it is a file input that the user left empty."""
        return self.filename == "" and not self.data


class FormReader:
    """Reads a form in pieces. The picture's bytes are passed on, never kept.

    A picture is recognised by its file name, by a content type other than text, or by its first
    bytes, since clients leave out one or two of these. Every method raises InvalidRequest for an
    unreadable form, and what `write` raises.
    """

    def __init__(
        self, content_type: str, known_fields: Collection[str], write: Callable[[bytes], None]
    ) -> None:
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise InvalidRequest(
                "the Content-Type names no boundary; let the HTTP library write that header."
            )
        self._boundary = boundary.decode("latin-1")
        self._charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
        self._known_fields = known_fields
        self._write = write
        self._parts = 0
        self._part = _FormPart()
        self._header = bytearray(), bytearray()
        self._fields: dict[str, bytes] = {}
        self._has_picture = self._has_ended = False
        self._received = 0
        with _readable():
            self._parser = MultipartParser(boundary, self._callbacks())

    def feed(self, data: bytes) -> None:
        """Reads the next piece of the body."""
        self._received += len(data)
        with _readable():
            self._parser.write(data)

    def finish(self) -> Form:
        """The form, once the whole body was read."""
        if not self._has_ended:
            raise InvalidRequest(
                f"the multipart form breaks off after {self._received} bytes, before its closing"
                f" boundary --{self._boundary[:80]}--; send all of it."
            )
        charset = self._fields.pop(
            _CHARSET_FIELD, self._charset.encode("latin-1", "replace")
        ).decode("latin-1")
        return Form(
            {name: _decode(data, charset) for name, data in self._fields.items()}, self._has_picture
        )

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(
                f"the form has more than {MAX_PARTS} parts; send a picture and its options."
            )
        self._part = _FormPart()

    def _end_header(self) -> None:
        name, value = (bytes(half).decode("latin-1") for half in self._header)
        self._part.headers[name.lower()] = value
        self._header = bytearray(), bytearray()

    def _end_headers(self) -> None:
        part = self._part
        _, options = parse_options_header(
            part.headers.get("content-disposition", "").encode("latin-1")
        )
        if b"name" not in options:
            raise InvalidRequest(
                "a part of the form has no name: write Content-Disposition: form-data; name=..."
            )
        part.name = _decode(options[b"name"], self._charset)
        part.filename = (
            _decode(options[b"filename"], self._charset) if b"filename" in options else None
        )
        _check_encoding(part)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part, piece = self._part, data[start:end]
        if part.is_picture:
            self._write(piece)
            return
        part.data += piece
        if part.is_picture is None and len(part.data) >= SIGNATURE_BYTES:
            self._decide(part)
        if not part.is_picture and len(part.data) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"field {part.name[:80]!r} of the form has more than {MAX_FIELD_BYTES} bytes."
            )

    def _end_part(self) -> None:
        part = self._part
        if part.is_picture is None and not part.is_blank:
            self._decide(part)
        if part.is_picture is False:
            self._add_field(part)

    def _end(self) -> None:
        self._has_ended = True

    def _decide(self, part: _FormPart) -> None:
        part.is_picture = _is_picture(part, self._known_fields)
        if part.is_picture:
            self._begin_picture(part)

    def _begin_picture(self, part: _FormPart) -> None:
        if self._has_picture:
            raise InvalidRequest("the form has more than one file; send one picture a request.")
        self._has_picture = True
        self._write(bytes(part.data))
        part.data.clear()

    def _add_field(self, part: _FormPart) -> None:
        self._fields[part.name] = bytes(part.data)
        if len(self._fields) > MAX_FIELDS:
            raise InvalidRequest(
                f"the form has more than {MAX_FIELDS} fields; send a picture and its options."
            )


def _is_picture(part: _FormPart, known_fields: Collection[str]) -> bool:
    """Whether the part is the picture, or meant as one. Its first bytes are in `data`."""
    if has_known_signature(part.data):
        return True
    if part.name in known_fields and part.filename in (None, "", _BLOB):
        return False
    return part.filename is not None or not part.is_text


def _check_encoding(part: _FormPart) -> None:
    encoding = part.headers.get("content-transfer-encoding", "").strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise InvalidRequest(
            f"part {part.name[:80]!r} of the form has Content-Transfer-Encoding {encoding[:40]}; "
            "send the bytes as they are."
        )
    if part.content_type.startswith("multipart/"):
        raise InvalidRequest(
            f"part {part.name[:80]!r} of the form is a {part.content_type[:40]}; send one file a"
            " part."
        )


def _decode(data: bytes, charset: str) -> str:
    """Decodes by the form's charset, or byte by byte where that fails or is unknown."""
    try:
        return data.decode(charset)
    except (UnicodeError, LookupError):
        return data.decode("latin-1")


@contextmanager
def _readable() -> Iterator[None]:
    """Raises InvalidRequest for what the parser cannot read."""
    try:
        yield
    except FormParserError as error:
        reason = str(error).rstrip(".")[:200]
        raise InvalidRequest(f"the multipart form cannot be read: {reason}.") from error
