"""What a decoding process is allowed, and how it talks with its worker."""

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from seg_pipeline.imaging.decoder_process import (
    CPU_SECONDS,
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    SharedPixels,
    anonymous_file,
    cpu_seconds,
    memory_limit,
    receive,
    send,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A worker's end and a decoder's."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Ends = tuple[socket.socket, socket.socket]


def test_memory_grows_with_the_pixels_and_with_the_file() -> None:
    assert memory_limit("PNG", 0, 0) == HEADER_BYTES
    assert memory_limit("PNG", 1_000_000, 0) - HEADER_BYTES == 24_000_000
    assert memory_limit("PNG", 0, 1_000) - HEADER_BYTES == 4_000


@pytest.mark.parametrize("format_", ["AVIF", "HEIF", "JXL"])
def test_decoders_that_keep_planes_of_wide_numbers_get_more(format_: str) -> None:
    assert memory_limit(format_, 1_000, 0) > memory_limit("JPEG", 1_000, 0)


@pytest.mark.parametrize(("pixels", "seconds"), [(0, 0), (1_999_999, 0), (50_000_000, 25)])
def test_cpu_time_grows_with_the_pixels(pixels: int, seconds: int) -> None:
    assert cpu_seconds(pixels) == CPU_SECONDS + seconds


def test_a_message_comes_with_its_descriptors(ends: Ends) -> None:
    descriptor = anonymous_file()
    os.write(descriptor, b"pixels")
    send(ends[0], {"size": 6}, [descriptor])
    os.close(descriptor)
    message, (received,) = receive(ends[1])
    assert message == {"size": 6}
    assert os.pread(received, 10, 0) == b"pixels"
    os.close(received)


def test_a_message_in_pieces_is_one(ends: Ends) -> None:
    for piece in (b'{"si', b'ze": 1', b"}\n"):
        ends[0].sendall(piece)
    assert receive(ends[1]) == ({"size": 1}, [])


def test_the_end_of_the_other_side_is_told(ends: Ends) -> None:
    ends[0].sendall(b'{"half": ')
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        receive(ends[1])


def test_a_message_without_end_is_refused(ends: Ends) -> None:
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE_BYTES)
    ends[0].sendall(b"x" * (MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ValueError, match="too long"):
        receive(ends[1])


def test_descriptors_of_a_message_that_is_refused_are_closed(ends: Ends) -> None:
    before = os.listdir("/dev/fd")
    descriptor = anonymous_file()
    socket.send_fds(ends[0], [b"half"], [descriptor])
    os.close(descriptor)
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        receive(ends[1])
    assert len(os.listdir("/dev/fd")) == len(before)


def test_shared_pixels_are_seen_through_their_descriptor() -> None:
    shared = SharedPixels()
    pixels = shared.allocate((2, 3, 3))
    pixels[:] = 7
    (descriptor,) = shared.descriptors
    assert os.pread(descriptor, 100, 0) == bytes([7]) * 18
    shared.close()
    assert np.all(pixels == 7)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
