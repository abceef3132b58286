"""The process that decodes untrusted bytes, on the descriptors SOCKET and LIFELINE.

It takes one picture after another from its worker, and leaves the pixels in shared memory. Its
limits of memory, CPU time and output follow from the picture's header. At worst a picture ends this
process, and `decoder_pool` starts the next. The process knows no secrets: its environment is empty.
"""

import contextlib
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import sys
import tempfile
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.errors import ImageError, ImageTooCostly
from seg_pipeline.imaging import images

HEADER_BYTES = 64 * 2**20
"""The most memory of a header, beside the picture's own bytes.

It is also what a process may keep between pictures.
"""

BYTES_A_PIXEL = {"AVIF": 48, "HEIF": 48, "JXL": 64}
"""The most bytes that decoding takes, output included.

These decoders keep planes of wide numbers.
"""

USUAL_BYTES_A_PIXEL = 24
CPU_SECONDS = 5
CPU_SECONDS_A_MEGAPIXEL = 0.5

MAX_MESSAGE_BYTES = 16_384
_COPIES_OF_THE_FILE = 4


def memory_limit(format_: str, pixels: int, size: int) -> int:
    """The bytes that a picture may take beyond those of the process at rest."""
    return (
        HEADER_BYTES
        + _COPIES_OF_THE_FILE * size
        + BYTES_A_PIXEL.get(format_, USUAL_BYTES_A_PIXEL) * pixels
    )


def cpu_seconds(pixels: int) -> int:
    """The seconds of CPU time that a picture may take."""
    return CPU_SECONDS + int(CPU_SECONDS_A_MEGAPIXEL * pixels / 1e6)


class DecoderLimits:
    """The process's limits, set anew for each picture."""

    def __init__(self) -> None:
        self._memory_at_rest = _address_space()
        _, self._most_memory = resource.getrlimit(resource.RLIMIT_AS)
        _, self._most_cpu = resource.getrlimit(resource.RLIMIT_CPU)

    def allow_header(self, size: int) -> None:
        """Sets the limits for a picture of so many bytes whose header is not known yet."""
        self._allow(HEADER_BYTES + _COPIES_OF_THE_FILE * size, CPU_SECONDS)

    def allow_pixels(self, header: images.ImageHeader, size: int) -> None:
        """Sets the limits for decoding the picture."""
        pixels = header.width * header.height
        self._allow(memory_limit(header.format, pixels, size), cpu_seconds(pixels))

    def outgrown(self) -> bool:
        """Whether a picture has left so much memory in use that the next ones would lack it."""
        return (
            self._memory_at_rest is not None
            and (_address_space() or 0) - self._memory_at_rest > HEADER_BYTES
        )

    def _allow(self, memory: int, seconds: int) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, self._most_cpu))
        if self._memory_at_rest:
            resource.setrlimit(
                resource.RLIMIT_AS,
                (self._memory_at_rest + HEADER_BYTES + memory, self._most_memory),
            )


def anonymous_file() -> int:
    """The descriptor of an unnamed file, in memory where the system has that, else on disk."""
    if sys.platform == "linux":
        return os.memfd_create("picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def send(connection: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    """Sends a message together with descriptors."""
    socket.send_fds(connection, [json.dumps(message).encode() + b"\n"], descriptors)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which the caller closes.

    Raises EOFError when the other side has gone, and ValueError for an invalid message.
    """
    got, descriptors = b"", list[int]()
    while not got.endswith(b"\n"):
        piece, more, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 1)
        descriptors += more
        got += piece
        if not piece or len(got) > MAX_MESSAGE_BYTES:
            for descriptor in descriptors:
                os.close(descriptor)
            raise (
                EOFError("the other side has gone")
                if not piece
                else ValueError("a message is too long")
            )
    return json.loads(got), descriptors


class SharedPixels:
    """Memory for one picture's pixels that another process can map."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of that shape in the shared memory."""
        size = int(np.prod(shape))
        self.descriptors.append(anonymous_file())
        os.ftruncate(self.descriptors[-1], size)
        return np.frombuffer(mmap.mmap(self.descriptors[-1], size), np.uint8).reshape(shape)

    def close(self) -> None:
        """Closes the descriptors. A process that received one keeps its own."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def serve(connection: socket.socket) -> None:
    """Answers requests until the worker has gone."""
    images.warm_up()
    limits = DecoderLimits()
    while True:
        request, (descriptor,) = receive(connection)
        pixels = SharedPixels()
        try:
            answer = _answer(request, descriptor, limits, pixels)
            send(
                connection,
                {**answer, "last": limits.outgrown()},
                pixels.descriptors if "shape" in answer else [],
            )
        finally:
            pixels.close()
            os.close(descriptor)


def _answer(
    request: dict[str, Any], descriptor: int, limits: DecoderLimits, pixels: SharedPixels
) -> dict[str, Any]:
    """The outcome of a picture: its header, its shape and notes, or an error by its code."""
    try:
        limits.allow_header(request["size"])
        data = _read(descriptor, request["size"])
        header = images.identify(data, request["max_pixels"])
        if not request["pixels"]:
            return {"header": asdict(header)}
        limits.allow_pixels(header, len(data))
        decoded = images.read(data, request["max_pixels"], pixels.allocate)
        return {"shape": decoded.pixels.shape, "notes": decoded.notes}
    except MemoryError:
        error: ImageError = ImageTooCostly(
            "The picture takes more memory to decode than one of its size needs."
        )
    except ImageError as raised:
        error = raised
    return {"code": error.code, "sentence": str(error)[:2_000]}


def _read(descriptor: int, size: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(size)


def _address_space() -> int | None:
    """The bytes of address space in use; None where they cannot be measured or limited."""
    if sys.platform != "linux":
        return None
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def end_with_worker(lifeline: int) -> None:
    """Has the kernel end this process as soon as its worker has gone.

    Nobody then holds the pipe's writing end any more. The kernel reports that by SIGIO, which by
    default ends a process at any point.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit()


def main() -> None:
    """Serves one worker."""
    connection, lifeline = map(int, sys.argv[1:])
    # Ctrl-C is for the worker, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_worker(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ConnectionError, EOFError):
        serve(socket.socket(fileno=connection))


if __name__ == "__main__":
    main()
