"""Decodes untrusted pictures in processes of their own: a crash is that picture's error alone.

`Decoders` keeps a few such processes (see `decoder_process`) warm for one worker. Bytes and pixels
pass through shared memory. A process that ends during a picture is replaced, and so is one after
`PICTURES_A_PROCESS`. All end with their worker, however it ends.
"""

import atexit
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue
from typing import Any, Protocol

import numpy as np

from seg_pipeline import errors
from seg_pipeline.errors import DecoderLost, ImageError, ImageTooCostly, UndecodableImage
from seg_pipeline.imaging import decoder_process
from seg_pipeline.imaging.images import Decoded, ImageHeader, large_ones_in_turn

PROCESSES = max(2, min(8, os.cpu_count() or 1))
PICTURES_A_PROCESS = 1_000
MAX_SECONDS = 600
"""However busy the machine is. CPU time has its own limit, which follows from the pixels."""

_SIGNALS_OF_FAULTS = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS),
    *(signal.SIGTRAP, signal.SIGXFSZ),
}
"""What a picture can make its decoder die of; all other signals come from outside."""

_ERRORS: dict[str, type[ImageError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, ImageError)
}
_COMMAND = (sys.executable, "-P", "-m", decoder_process.__name__)
_ENVIRONMENT = {
    "PYTHONPATH": str(Path(errors.__file__).parents[1]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}


class ImageDecoder(Protocol):
    """Reads the headers and the pixels of pictures."""

    def identify(self, data: bytes, max_pixels: int) -> ImageHeader:
        """As `images.identify`."""
        ...

    def read(self, data: bytes, max_pixels: int, header: ImageHeader | None = None) -> Decoded:
        """As `images.read`. `header` is the picture's, if known."""
        ...


class Decoders:
    """A pool of decoding processes, each started when it is first needed; thread-safe."""

    def __init__(
        self, processes: int = PROCESSES, pictures_a_process: int = PICTURES_A_PROCESS
    ) -> None:
        self._pictures_a_process = pictures_a_process
        self._idle: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def identify(self, data: bytes, max_pixels: int) -> ImageHeader:
        """As `images.identify`; raises what `read` raises."""
        answer = self._ask(data, max_pixels, pixels=False).answer
        header = answer["header"]
        return ImageHeader(**{**header, "notes": tuple(header["notes"])})

    def read(self, data: bytes, max_pixels: int, header: ImageHeader | None = None) -> Decoded:
        """As `images.read`. A given header is not read again.

        Raises ImageTooCostly for a picture that takes more memory or CPU time than its size needs.
        Raises UndecodableImage if the picture crashes two decoders in turn, and DecoderLost if
        something else ended them.
        """
        header = header or self.identify(data, max_pixels)
        with large_ones_in_turn(header.width * header.height):
            return self._ask(data, max_pixels, pixels=True).decoded()

    def close(self) -> None:
        """Ends the idle processes."""
        idle = [self._idle.get() for _ in range(self._idle.qsize())]
        for process in idle:
            if process:
                process.end()
            self._idle.put(None)

    def _ask(self, data: bytes, max_pixels: int, *, pixels: bool) -> "_Reply":
        request = {"size": len(data), "max_pixels": max_pixels, "pixels": pixels}
        try:
            return self._try(request, data)
        except (DecoderLost, _DecoderCrashed):
            # A kill from outside is no fault of the picture. Nor is a decoder that ended just
            # before it got the picture. A picture that is to blame ends a second one as well.
            return self._try(request, data)

    def _try(self, request: dict[str, Any], data: bytes) -> "_Reply":
        with self._process() as process:
            reply = process.ask(request, data)
        if "code" in reply.answer:
            raise _ERRORS.get(reply.answer["code"], ImageError)(reply.answer["sentence"])
        return reply

    @contextmanager
    def _process(self) -> Iterator["_Process"]:
        """One process for the caller alone. Waits until one is idle."""
        process = self._idle.get()
        try:
            if process and process.has_ended:  # while it was idle: no picture is to blame
                process.end()
                process = None
            process = process or _Process()
            yield process
        finally:
            if process and (process.is_over or process.pictures >= self._pictures_a_process):
                process.end()
                process = None
            self._idle.put(process)


class _DecoderCrashed(UndecodableImage):
    """A decoder ended in the way of a fault of its own."""


class _Reply:
    """A process's answer, and the descriptor of the pixels if it sent any."""

    def __init__(self, answer: dict[str, Any], descriptors: list[int]) -> None:
        self.answer = answer
        self._descriptors = descriptors

    def decoded(self) -> Decoded:
        """The pixels, in memory that no other process can remove or shrink."""
        shape = tuple(map(int, self.answer["shape"]))
        size = int(np.prod(shape))
        descriptor = self._descriptors[0]
        try:
            if sys.platform == "linux":
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            if len(shape) != 3 or os.fstat(descriptor).st_size != size:
                raise UndecodableImage("The picture's decoder gave invalid pixels.")
            pixels = np.frombuffer(mmap.mmap(descriptor, size), np.uint8).reshape(shape)
        finally:
            self.close()
        return Decoded(pixels, tuple(map(str, self.answer["notes"])))

    def close(self) -> None:
        """Closes the descriptors."""
        while self._descriptors:
            os.close(self._descriptors.pop())


class _Process:
    """One decoding process and the connection to it."""

    def __init__(self) -> None:
        self.pictures = 0
        self.is_over = False
        ours, theirs = socket.socketpair()
        reader, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno()), str(reader)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), reader),
                env=_ENVIRONMENT,
            )
        finally:
            theirs.close()
            os.close(reader)
        self._connection = ours
        self._connection.settimeout(MAX_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def ask(self, request: dict[str, Any], data: bytes) -> _Reply:
        """The process's answer. Raises an error if the process ends instead."""
        self.pictures += request["pixels"]
        file = decoder_process.anonymous_file()
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(data)
            os.lseek(file, 0, os.SEEK_SET)
            decoder_process.send(self._connection, request, [file])
            reply = _Reply(*decoder_process.receive(self._connection))
            self.is_over = bool(reply.answer["last"])
            return reply
        except (OSError, EOFError, LookupError, ValueError) as error:
            self.is_over = True
            raise self._why(error) from error
        finally:
            os.close(file)

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self.is_over = True
        self._process.kill()
        self._process.wait()
        self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)

    def _why(self, error: Exception) -> errors.SegPipelineError:
        if isinstance(error, TimeoutError):
            return DecoderLost(f"The picture's decoder did not answer in {MAX_SECONDS} s.")
        if isinstance(error, LookupError | ValueError):
            return UndecodableImage("The picture's decoder gave an invalid answer.")
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return ImageTooCostly(
                "The picture takes more time to decode than one of its size needs."
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == 0 or (code < 0 and -code not in _SIGNALS_OF_FAULTS):
            return DecoderLost(f"The picture's decoder was ended from outside ({how}).")
        return _DecoderCrashed(f"The picture ends its decoder ({how}); save it anew.")


_shared: Decoders | None = None
_lock = threading.Lock()


def shared_decoders() -> Decoders:
    """This process's pool, which outlives its users."""
    global _shared  # noqa: PLW0603
    with _lock:
        if _shared is None:
            _shared = Decoders()
            atexit.register(_shared.close)
        return _shared
