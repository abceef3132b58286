"""The pictures that a command line names: files, folders, addresses, and standard input."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif")
) | {".avif", ".jxl"}
"""How the names of pictures end that are taken from a folder, in small letters."""

_SCHEMES = ("http://", "https://", "s3://")


class NoPicture(Exception):
    """An argument names no picture; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A picture to segment. `name` is what its outputs are called, and may have folders."""

    source: str
    name: str
    path: Path | None = None

    @property
    def url(self) -> str | None:
        """Its address, if that is what was given."""
        return self.source if self.source.lower().startswith(_SCHEMES) else None

    @property
    def told_name(self) -> str:
        """Its name for others: at most 255 characters, and all of them Unicode's."""
        return self.name.encode(errors="replace").decode()[-255:]

    def read(self) -> bytes | None:
        """Its bytes; None for one at an address. Raises OSError."""
        if self.url:
            return None
        return self.path.read_bytes() if self.path else sys.stdin.buffer.read()

    @property
    def changed_at(self) -> float:
        """When its file was changed, in epoch seconds; 0 if that is not known."""
        return self.path.stat().st_mtime if self.path and self.path.exists() else 0.0


def pictures_of(arguments: Iterable[str], out: Path, may_be_none: bool = False) -> list[Picture]:
    """The pictures, each once and in order; those of a folder by name. Raises NoPicture.

    What lies below `out` is output, and hidden files are nobody's. With `may_be_none`, a folder may
    have no picture.
    """
    found = dict.fromkeys(
        picture for each in arguments for picture in _named_by(each, out, may_be_none)
    )
    names: dict[str, Picture] = {}
    for picture in found:
        other = names.setdefault(picture.name, picture)
        if other is not picture:
            raise NoPicture(
                f"{other.source} and {picture.source} would both be written as {picture.name};"
                " segment them into different folders."
            )
    return list(found)


def watched_pictures(arguments: Sequence[str], out: Path) -> Callable[[], list[Picture]]:
    """What looks for the pictures that are there now. Raises NoPicture if no folder is named."""
    if not any(Path(each).is_dir() for each in arguments):
        raise NoPicture("--watch needs a folder; name one.")
    return lambda: pictures_of(arguments, out, may_be_none=True)


def _named_by(argument: str, out: Path, may_be_none: bool) -> Iterator[Picture]:
    if argument == "-":
        yield Picture("-", "stdin")
    elif argument.lower().startswith(_SCHEMES):
        yield Picture(argument, _name_of_url(argument))
    elif Path(argument).is_dir():
        yield from _in_folder(Path(argument), out, may_be_none)
    elif Path(argument).is_file():
        yield Picture(argument, Path(argument).name, Path(argument))
    else:
        raise NoPicture(f"{argument} is no file, no folder and no address.")


def _in_folder(folder: Path, out: Path, may_be_none: bool) -> Iterator[Picture]:
    output = out.resolve()
    paths = [path for path in sorted(folder.rglob("*")) if _is_picture(path, folder, output)]
    if not paths and not may_be_none:
        raise NoPicture(f"{folder} has no picture; names that end in {_endings()} are taken.")
    for path in paths:
        yield Picture(str(path), path.relative_to(folder).as_posix(), path)


def _is_picture(path: Path, folder: Path, output: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    is_output = output != folder.resolve() and path.resolve().is_relative_to(output)
    is_label_map = path.name.endswith(".label-map.png")
    kind = path.suffix.lower() in SUFFIXES
    return kind and not hidden and not is_output and not is_label_map and path.is_file()


def _name_of_url(url: str) -> str:
    last = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[:100] or "picture"


def _endings() -> str:
    return ", ".join(sorted(SUFFIXES))
