"""Decodes bodies by their `Content-Encoding`, as the bytes arrive (RFC 9110, section 8.4)."""

import re
import zlib
from collections.abc import Iterator

_COMPRESSED = ("br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip")
"""Encodings that exist but are not supported here.

Any other word, such as `utf-8` or `aws-chunked`, does not change the bytes. They are then taken as
they come, as browsers take them.
"""

_GZIP = zlib.MAX_WBITS | 16
_ZLIB = zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
_PIECE_BYTES = 2**16


class UnknownEncoding(Exception):
    """A compression that is not supported; `name` is its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class UndecodableBody(Exception):
    """The bytes are not in the encoding that was named."""


class ContentDecoder:
    """Decodes one body: its encodings are undone from the last to the first."""

    def __init__(self, encodings: str) -> None:
        names = [name for name in re.split(r"[\s,\"]+", encodings.lower()) if name]
        unknown = next((name for name in names if name in _COMPRESSED), None)
        if unknown:
            raise UnknownEncoding(unknown)
        self._inflaters = [
            _Inflater(name) for name in reversed(names) if name in ("gzip", "x-gzip", "deflate")
        ]

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded bytes of the next chunk, in small pieces, so that the caller can stop early.

        Raises UndecodableBody.
        """
        return self._decode(chunk, self._inflaters)

    @property
    def is_complete(self) -> bool:
        """Whether every compressed stream came to its end. An empty body counts as complete."""
        return all(inflater.is_complete for inflater in self._inflaters)

    def _decode(self, chunk: bytes, inflaters: "list[_Inflater]") -> Iterator[bytes]:
        if not inflaters:
            yield chunk
            return
        for piece in inflaters[0].inflate(chunk):
            yield from self._decode(piece, inflaters[1:])


class _Inflater:
    """One gzip stream, perhaps of several members (RFC 1952, 2.2), or one of deflate.

    A deflate stream may lack its zlib header. Bytes after the end that are no further member are
    ignored, as gzip itself ignores them.
    """

    def __init__(self, name: str) -> None:
        self._is_gzip = name != "deflate"
        self._stream = zlib.decompressobj(_GZIP if self._is_gzip else _ZLIB)
        self._begun = False
        self._head = b""
        self._over = False

    @property
    def is_complete(self) -> bool:
        return self._over or self._stream.eof or not (self._begun or self._head)

    def inflate(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of at most `_PIECE_BYTES`."""
        data, self._head = self._head + chunk, b""
        while self._may_begin(data):
            piece = self._decompress(data)
            yield piece
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if self._stream.eof:
                self._begun = False
            elif not data and len(piece) < _PIECE_BYTES:
                return

    def _may_begin(self, data: bytes) -> bool:
        """Whether these bytes can be decompressed now. Fewer than two wait for more."""
        if not self._begun and len(data) < 2:
            self._head = data
        elif not self._over:
            self._begin(data)
        return self._begun

    def _begin(self, data: bytes) -> None:
        """Reads the first bytes of a stream, or of what follows one."""
        if self._begun:
            return
        if self._stream.eof:
            if not (self._is_gzip and data.startswith(_GZIP_MAGIC)):
                self._over = True
                return
            self._stream = zlib.decompressobj(_GZIP)
        elif not self._is_gzip and not _has_zlib_head(data):
            self._stream = zlib.decompressobj(_RAW)
        self._begun = True

    def _decompress(self, data: bytes) -> bytes:
        try:
            return self._stream.decompress(data, _PIECE_BYTES)
        except zlib.error as error:
            raise UndecodableBody(str(error)) from error


def _has_zlib_head(data: bytes) -> bool:
    """Whether the bytes begin with a zlib header (RFC 1950), which some servers leave out."""
    return data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
