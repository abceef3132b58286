"""Bodies are decoded as they arrive, however they are cut, and never past what is asked for."""

import gzip
import zlib

import pytest

from seg_pipeline.adapters.content_encoding import ContentDecoder, UndecodableBody, UnknownEncoding

TEXT = bytes(range(256)) * 40
BODIES = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "deflate, gzip": gzip.compress(zlib.compress(TEXT)),
    " GZIP ,": gzip.compress(TEXT),
    "": TEXT,
    "identity": TEXT,
    "utf-8": TEXT,
    "aws-chunked": TEXT,
}


def decoded(encodings: str, body: bytes, step: int = 2**20) -> tuple[bytes, bool]:
    """The bytes, and whether they came to their end."""
    decoder = ContentDecoder(encodings)
    chunks = [body[at : at + step] for at in range(0, len(body), step)]
    pieces = [piece for chunk in chunks for piece in decoder.decode(chunk)]
    return b"".join(pieces), decoder.is_complete


@pytest.mark.parametrize("step", [1, 2, 3, 1_000, 2**20])
@pytest.mark.parametrize("encodings", BODIES)
def test_a_body_is_the_same_however_it_is_cut(encodings: str, step: int) -> None:
    assert decoded(encodings, BODIES[encodings], step) == (TEXT, True)


@pytest.mark.parametrize("step", [1, 2, 2**20])
def test_deflate_may_lack_its_zlib_header(step: int) -> None:
    raw = zlib.compressobj(wbits=-15)
    assert decoded("deflate", raw.compress(TEXT) + raw.flush(), step) == (TEXT, True)


@pytest.mark.parametrize("step", [1, 7, 2**20])
def test_a_gzip_body_may_have_several_members_and_something_behind_them(step: int) -> None:
    body = gzip.compress(b"one") + gzip.compress(b"two") + bytes(20)
    assert decoded("gzip", body, step) == (b"onetwo", True)


@pytest.mark.parametrize("encodings", ["gzip", "deflate", "deflate, gzip"])
@pytest.mark.parametrize("kept", [1, 2, 30, -1])
def test_a_stream_without_its_end_is_not_complete(encodings: str, kept: int) -> None:
    assert not decoded(encodings, BODIES[encodings][:kept])[1]


def test_a_second_member_without_its_end_is_not_complete() -> None:
    assert not decoded("gzip", gzip.compress(b"one") + gzip.compress(b"two")[:-4])[1]


@pytest.mark.parametrize("encodings", BODIES)
def test_an_empty_body_is_complete(encodings: str) -> None:
    assert decoded(encodings, b"") == (b"", True)


@pytest.mark.parametrize("name", ["br", "zstd", "compress", "x-compress", "dcb", "exi"])
def test_a_compression_that_is_not_supported_is_named(name: str) -> None:
    with pytest.raises(UnknownEncoding) as refusal:
        ContentDecoder(f"gzip, {name.upper()}")
    assert refusal.value.name == name


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(TEXT, mtime=0)[:12] + bytes(50)])
def test_bytes_in_another_encoding_are_undecodable(body: bytes) -> None:
    with pytest.raises(UndecodableBody):
        decoded("gzip", body)


def test_a_bomb_comes_in_pieces_so_that_the_caller_can_stop() -> None:
    pieces = ContentDecoder("gzip").decode(gzip.compress(bytes(50_000_000)))
    assert max(len(next(pieces)) for _ in range(5)) <= 2**16


def test_a_bomb_in_a_bomb_comes_in_pieces_too() -> None:
    inner = gzip.compress(bytes(50_000_000))
    pieces = ContentDecoder("gzip, gzip").decode(gzip.compress(inner))
    assert max(len(next(pieces)) for _ in range(5)) <= 2**16
