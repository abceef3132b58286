"""A picture that ends its decoder is that picture's error; the next one is decoded as if nothing
had happened."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from seg_pipeline.errors import (
    DecoderLost,
    EmptyImage,
    ImageError,
    ImageTooCostly,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UndecodableImage,
)
from seg_pipeline.imaging import decoder_pool, images
from seg_pipeline.imaging.decoder_pool import Decoders
from seg_pipeline.imaging.decoder_process import cpu_seconds, memory_limit
from seg_pipeline_tests import picture_files as files
from seg_pipeline_tests.builders import make_picture, picture_bytes, saved

pytestmark = pytest.mark.process

LIMIT = 50_000_000
PICTURE = make_picture(64, 48)


@pytest.fixture(scope="module")
def pool() -> Iterator[Decoders]:
    decoders = Decoders(processes=2)
    yield decoders
    decoders.close()


def children() -> set[int]:
    """Decoding processes of this one."""
    return {
        child.pid for child in psutil.Process().children() if "decoder_process" in command_of(child)
    }


def command_of(process: psutil.Process) -> str:
    """Empty once it has ended."""
    with suppress(psutil.NoSuchProcess):  # a zombie is one, too
        return " ".join(process.cmdline())
    return ""


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP", "AVIF"])
def test_pixels_and_header_are_those_of_decoding_in_this_process(
    pool: Decoders, format: str
) -> None:
    data = picture_bytes(PICTURE, format)
    assert pool.identify(data, LIMIT) == images.identify(data, LIMIT)
    found = pool.read(data, LIMIT)
    assert np.array_equal(found.pixels, images.decode(data, LIMIT))
    assert found.pixels.flags.writeable


def test_notes_come_too(pool: Decoders) -> None:
    assert pool.read(picture_bytes(PICTURE, "JPEG")[:-2], LIMIT).notes == (
        "The JPEG's end is missing; its pixels are there.",
    )


@pytest.mark.parametrize(("data", "error"), [
    (b"", EmptyImage), (b"hello", NotAnImage), (picture_bytes(PICTURE)[:-60], TruncatedImage),
    (files.png((30_000, 30_000), 8, 2, b""), TooManyPixels),
])  # fmt: skip
def test_refusals_are_those_of_decoding_in_this_process(
    pool: Decoders, data: bytes, error: type[ImageError]
) -> None:
    with pytest.raises(error):
        pool.read(data, LIMIT)


def bomb_of_strips() -> bytes:
    """A TIFF of 130 bytes whose strip would be 147 MB, again and again."""
    tags = {258: (3, [8] * 3), 262: (3, [2]), 277: (3, [3]), 259: (3, [8])}
    return files.tiff((7_000, 7_000), tags, b"\x78\x9c")


def test_memory_out_of_proportion_is_that_pictures_error(
    pool: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((ImageTooCostly, TruncatedImage)):
        pool.read(bomb_of_strips(), LIMIT)
    assert np.array_equal(pool.read(picture_bytes(PICTURE), LIMIT).pixels, PICTURE)


@pytest.fixture
def flawed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Decoders]:
    """A pool whose decoders do what the first bytes of a picture name, as a flaw in a decoder
    would."""
    program = textwrap.dedent(f"""
        import os, pathlib, signal, sys, time
        from seg_pipeline.imaging import decoder_process, images
        plain = images.read
        def read(data, *rest):
            if data.endswith(b"crash"): os.kill(os.getpid(), signal.SIGSEGV)
            if data.endswith(b"abort"): os.abort()
            if data.endswith(b"spin!"):
                while True: pass
            if data.endswith(b"eat!!"): return [bytearray(2**20) for _ in range(10_000)]
            if data.endswith(b"wait!"):
                pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
                time.sleep(600)
            return plain(data, *rest)
        images.read = read
        decoder_process.CPU_SECONDS = 1
        decoder_process.main()
    """)
    monkeypatch.setattr(decoder_pool, "_COMMAND", (sys.executable, "-P", "-c", program))
    decoders = Decoders(processes=2)
    yield decoders
    decoders.close()


@pytest.mark.parametrize(("flaw", "error", "words"), [
    (b"crash", UndecodableImage, "SIGSEGV"), (b"abort", UndecodableImage, "SIGABRT"),
    (b"spin!", ImageTooCostly, "more time"), (b"eat!!", ImageTooCostly, "more memory"),
])  # fmt: skip
def test_whatever_ends_a_decoder_is_that_pictures_error_and_nobody_elses(
    flawed: Decoders, flaw: bytes, error: type[ImageError], words: str
) -> None:
    """Others are decoded meanwhile and afterwards; all of these errors are for good."""
    with ThreadPoolExecutor(4) as threads:
        bad = [threads.submit(flawed.read, picture_bytes(PICTURE) + flaw, LIMIT) for _ in range(2)]
        good = [threads.submit(flawed.read, picture_bytes(PICTURE), LIMIT) for _ in range(6)]
        for future in bad:
            with pytest.raises(error, match=words) as raised:
                future.result()
            assert raised.value.permanent
        assert all(np.array_equal(future.result().pixels, PICTURE) for future in good)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV, signal.SIGUSR1]
)
def test_decoders_that_end_while_they_are_idle_blame_no_picture(
    flawed: Decoders, number: signal.Signals
) -> None:
    """The kernel's or a hand's kill; the picture is decoded by the next process."""
    before = children()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(flawed.read, [picture_bytes(PICTURE)] * 8, [LIMIT] * 8))
    for pid in children() - before:
        os.kill(pid, number)
    while children() - before:
        time.sleep(0.01)
    assert np.array_equal(flawed.read(picture_bytes(PICTURE), LIMIT).pixels, PICTURE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_decoder_that_is_killed_over_a_picture_does_not_blame_it(
    flawed: Decoders, number: signal.Signals, tmp_path: Path
) -> None:
    """It is tried once more; who kills that decoder too gets an error that is not for good."""
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(flawed.read, picture_bytes(PICTURE) + b"wait!", LIMIT)
        for tries in (1, 2):
            while len(begun := sorted(tmp_path.iterdir(), key=creation)) < tries:
                time.sleep(0.01)
            os.kill(int(begun[-1].name), number)
        with pytest.raises(DecoderLost, match=number.name) as raised:
            waiting.result()
    assert not raised.value.permanent


def creation(path: Path) -> int:
    """When the file was made, in nanoseconds."""
    return path.stat().st_mtime_ns


def test_a_decoder_is_replaced_after_so_many_pictures() -> None:
    decoders, before = Decoders(processes=1, pictures_a_process=3), children()
    pids = []
    for _ in range(7):
        decoders.read(picture_bytes(PICTURE), LIMIT)
        pids.append(frozenset(children() - before))
    decoders.close()
    assert len(set(pids) - {frozenset()}) == 3


def test_decoders_end_with_their_worker_though_it_is_killed_in_the_middle_of_a_picture(
    tmp_path: Path,
) -> None:
    program = textwrap.dedent("""
        import threading, time
        from seg_pipeline.imaging import decoder_pool
        pool = decoder_pool.Decoders(processes=1)
        pool.identify(open(%r, "rb").read(), 10**9)
        process = pool._idle.get()
        print(process._process.pid, flush=True)
        time.sleep(600)
    """)
    picture = tmp_path / "picture.png"
    picture.write_bytes(picture_bytes(PICTURE))
    with subprocess.Popen(
        [sys.executable, "-c", program % str(picture)], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        decoder = psutil.Process(int(worker.stdout.readline()))
        decoder.suspend()  # it cannot notice anything by itself
        worker.kill()
        decoder.resume()
        decoder.wait(30)


def test_a_decoder_knows_no_secrets(pool: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET_KEY", "very secret")
    decoders = Decoders(processes=1)
    before = children()
    decoders.identify(picture_bytes(PICTURE), LIMIT)
    (pid,) = children() - before
    environment = psutil.Process(pid).environ()
    decoders.close()
    assert "very secret" not in environment.values()


def test_memory_is_given_back_when_the_pixels_are_gone(pool: Decoders) -> None:
    data = picture_bytes(np.zeros((1000, 1000, 3), np.uint8))
    for _ in range(3):
        pool.read(data, LIMIT)
    descriptors, mapped = psutil.Process().num_fds(), psutil.Process().memory_info().vms
    for _ in range(50):
        pool.read(data, LIMIT)
    assert psutil.Process().num_fds() <= descriptors
    assert psutil.Process().memory_info().vms - mapped < 20 * 2**20


def test_limits_grow_with_the_picture_and_leave_room_for_honest_ones(pool: Decoders) -> None:
    assert memory_limit("PNG", 10, 100) < memory_limit("PNG", LIMIT, 100)
    assert cpu_seconds(0) < cpu_seconds(LIMIT)


QUICK_TO_WRITE: dict[str, dict[str, Any]] = {
    "AVIF": {"speed": 10},
    "JXL": {"effort": 1},
    "JPEG": {"progressive": True},
}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "HEIF", "JXL"])
def test_a_large_honest_picture_is_within_its_limits(pool: Decoders, format: str) -> None:
    side = 1_600
    rng = np.random.default_rng(0)
    picture = Image.fromarray(
        rng.integers(0, 256, (side // 20, side // 20, 3)).astype(np.uint8)
    ).resize((side, side))
    options = QUICK_TO_WRITE.get(format, {})
    make = {"HEIF": files.heic, "JXL": files.jxl}.get(format)
    data = make(picture, **options) if make else saved(picture, format, **options)
    assert pool.read(data, LIMIT).pixels.shape == (side, side, 3)


def test_callers_in_many_threads_each_get_their_own(pool: Decoders) -> None:
    pictures = [make_picture(50 + seed, 40, seed) for seed in range(12)]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(
            lambda picture: pool.read(picture_bytes(picture), LIMIT).pixels, pictures
        )
        assert all(
            np.array_equal(one, picture) for one, picture in zip(found, pictures, strict=True)
        )
