"""`seg-pipeline segment`: pictures in, files out, by a service or alone."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from seg_pipeline.cli.pictures import Picture
from seg_pipeline.exports import FORMATS

SUFFIXES = {"json": ".result.json"} | {
    name: each.suffix for name, each in FORMATS.items() if "segment" not in each.options
}
"""What follows the picture's name in the output's, by format."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

LOOK_SECONDS = 1.0
SETTLED_SECONDS = 2.0
"""A file that was changed a shorter while ago may still be on its way."""

Say = Callable[[str], None]


class UnknownFormat(Exception):
    """There is no such format; the message lists all."""


class NoFolder(Exception):
    """The files cannot be written to their folder; the message says why."""


def made_folder(path: Path) -> Path:
    """The folder, made if it was missing. Raises NoFolder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoFolder(f"--out {path} is no folder that can be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise NoFolder(f"--out {path} cannot be written to; name another folder.")
    return path


def formats_of(text: str) -> list[str]:
    """The formats of a list with commas, each once. Raises UnknownFormat."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in SUFFIXES:
            raise UnknownFormat(f"--format {name!r} is none of {', '.join(SUFFIXES)}.")
    return names


class Segmented(Protocol):
    """A picture's segments."""

    @property
    def answer(self) -> Mapping[str, Any]:
        """The job's document."""
        ...

    def export(self, name: str) -> Iterator[bytes]:
        """The picture in a format of exports, in pieces."""
        ...


class PictureService(Protocol):
    """What segments pictures: a running service, or this process."""

    def segment(
        self, name: str, picture: bytes | None, url: str | None
    ) -> AbstractContextManager[Segmented]:
        """The picture's segments, of its bytes or its address, within the block."""
        ...


@dataclass(frozen=True)
class SegmentOutput:
    """Where the results go. Without a folder nothing is written."""

    folder: Path | None
    formats: Sequence[str]
    lines: bool = False
    again: bool = False

    def files(self, picture: Picture) -> dict[str, Path]:
        """The picture's files, by format."""
        folder = self.folder
        if folder is None:
            return {}
        return {name: folder / f"{picture.name}{SUFFIXES[name]}" for name in self.formats}

    def has(self, picture: Picture) -> bool:
        """Whether the picture has all its files, and has not changed since."""
        paths = self.files(picture).values()
        return (
            not self.again
            and bool(paths)
            and all(path.is_file() for path in paths)
            and min(path.stat().st_mtime for path in paths) >= picture.changed_at
        )


@dataclass
class Counts:
    """How the pictures fared."""

    total: int
    segmented: int = 0
    skipped: int = 0
    failed: int = 0

    def __str__(self) -> str:
        left = self.total - self.segmented - self.skipped - self.failed
        rest = f", {left} not begun" if left else ""
        return (
            f"{self.total} {'picture' if self.total == 1 else 'pictures'}: {self.segmented}"
            f" segmented, {self.skipped} skipped, {self.failed} failed{rest}"
        )


@dataclass
class Segmentation:
    """Segments pictures side by side. `say` is for results, `complain` for people."""

    service: PictureService
    output: SegmentOutput
    parallel: int
    say: Say
    complain: Say
    counts: Counts = field(default_factory=lambda: Counts(0))

    def run(self, pictures: Sequence[Picture]) -> int:
        """The exit code: 0, or 1 if a picture failed, or 130 after Ctrl-C."""
        todo = [each for each in pictures if not self.output.has(each)]
        self.counts = Counts(len(pictures), skipped=len(pictures) - len(todo))
        if self.counts.skipped:
            self.complain(
                f"Skipped, since their files are there: {self.counts.skipped}. --again"
                " segments them anew."
            )
        pool = ThreadPoolExecutor(self.parallel)
        futures = {pool.submit(self._segment, each): each for each in todo}
        try:
            with _progress(len(todo)) as advance:
                for future in as_completed(list(futures)):
                    self._report(futures.pop(future), future)
                    advance()
            pool.shutdown()
        except KeyboardInterrupt:
            self._end(pool, futures)
            return INTERRUPTED
        self.complain(f"{self.counts}.")
        return 1 if self.counts.failed else 0

    def watch(self, look: Callable[[], Sequence[Picture]]) -> int:
        """Segments what `look` finds, and then what is new or changed, until Ctrl-C.

        The exit code: 0, or 1 if a picture failed, or 130 if Ctrl-C left some undone.
        """
        tried: dict[Picture, float] = {}
        failed = False
        try:
            while True:
                todo = [each for each in look() if tried.get(each) != each.changed_at]
                whole = [each for each in todo if time.time() - each.changed_at > SETTLED_SECONDS]
                tried |= {each: each.changed_at for each in whole}
                if whole and (code := self.run(whole)) == INTERRUPTED:
                    return code
                failed |= bool(self.counts.failed)
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            return int(failed or self.counts.failed > 0)

    def _end(self, pool: ThreadPoolExecutor, futures: dict[Future[Any], Picture]) -> None:
        """Ends after the pictures under way; at once after another Ctrl-C."""
        self.complain("Finishing what is under way; Ctrl-C again ends at once.")
        try:
            pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            self.complain("Ended at once. The same command goes on where this ended.")
            os._exit(INTERRUPTED)
        for future, picture in futures.items():
            if not future.cancelled():
                self._report(picture, future)
        self.complain(f"Interrupted; {self.counts}. The same command goes on from here.")

    def _segment(self, picture: Picture) -> dict[str, Any]:
        with self.service.segment(picture.told_name, picture.read(), picture.url) as segmented:
            files = self.output.files(picture)
            for name, path in files.items():
                write_whole(path, _pieces(segmented, name))
            return {"files": {name: str(path) for name, path in files.items()}, **segmented.answer}

    def _report(self, picture: Picture, future: Future[dict[str, Any]]) -> None:
        error = future.exception()
        if error is None:
            self.counts.segmented += 1
            line = future.result()
        elif isinstance(error, Exception):
            self.counts.failed += 1
            self.complain(f"{picture.source}: {_sentence(error)}")
            code = getattr(error, "code", "error")
            line = {"status": "failed", "error": {"code": code, "message": _sentence(error)}}
        else:
            raise error
        if self.output.lines:
            self.say(json.dumps({"picture": picture.source, **line}))


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes the file: all of it is there at once, or none of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.writelines(pieces)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _pieces(segmented: Segmented, name: str) -> Iterator[bytes]:
    if name == "json":
        return iter([json.dumps(segmented.answer, indent=2).encode() + b"\n"])
    return segmented.export(name)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    return str(error) or type(error).__name__


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Draws a bar on standard error where that is a terminal; yields what counts one picture."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not sys.stderr.isatty() or console.is_dumb_terminal or total < 2:
        yield lambda: None
        return
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
