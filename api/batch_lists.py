"""Reads a batch's list of addresses: JSON, JSON Lines or plain text, an address a line.

What is no address is noted with its place, and the others go on: of thousands of lines, one that
is broken should not cost the rest. An address that is there twice is one job.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, cast

from seg_pipeline.errors import BatchTooLarge, InvalidRequest, SegPipelineError
from seg_pipeline.jobs.batch_records import Entry, Problem

JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
PLAIN = "text/plain"
JSON = "application/json"

KEPT_PROBLEMS = 100
MAX_NAME = 1024
"""Characters of a picture's name."""

_FIELDS = {"image_url", "name"}


@dataclass
class Listing:
    """The entries of a batch, at most `limit`, and what is no entry."""

    limit: int
    entries: list[Entry] = field(default_factory=list)
    rejected: int = 0
    problems: list[Problem] = field(default_factory=list)
    _places: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, value: object) -> None:
        """Adds what stands at a place: an address, or an object with an address and a name."""
        try:
            entry = entry_of(value)
        except SegPipelineError as error:
            self.reject(where, error.code, str(error))
            return
        if first := self.claim(entry.address or "", where):
            self.reject(where, "duplicate", f"the same address is at {first}; it is one job.")
            return
        self.append(entry)

    def claim(self, what: str, where: str) -> str | None:
        """Notes an address or a name; gives the place where it was before, if it was."""
        first = self._places.get(what)
        self._places.setdefault(what, where)
        return first

    def append(self, entry: Entry) -> None:
        """Adds an entry. Raises BatchTooLarge."""
        if len(self.entries) >= self.limit:
            raise BatchTooLarge(
                f"the batch has more than MAX_BATCH_JOBS = {self.limit} pictures; send it in parts."
            )
        self.entries.append(entry)

    def reject(self, where: str, code: str, message: str) -> None:
        """Notes why something is no entry; of very many, only their number."""
        self.rejected += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(Problem(where, code, message))

    def checked(self) -> "Listing":
        """The listing, if it has an entry. Raises InvalidRequest."""
        if self.entries:
            return self
        if not self.problems:
            raise InvalidRequest("the batch is empty; send the addresses of pictures.")
        first = self.problems[0]
        raise InvalidRequest(
            f"none of {self.rejected} is a picture's address; {first.where}: {first.message}"
        )


def entry_of(value: object) -> Entry:
    """The entry that an address stands for, or an object with an address and perhaps a name.

    Raises InvalidRequest.
    """
    from seg_pipeline.adapters.image_fetch import check_image_url

    if isinstance(value, str):
        return Entry(check_image_url(value), value)
    if not isinstance(value, Mapping) or not isinstance(value.get("image_url"), str):
        raise InvalidRequest(
            f"{_shown(value)} is neither an address nor an object with an image_url."
        )
    if strange := sorted(value.keys() - _FIELDS):
        raise InvalidRequest(f"field {str(strange[0])[:80]!r} is not known here.")
    address = check_image_url(value["image_url"])
    return Entry(check_name(value.get("name", address)), address)


def check_name(name: object) -> str:
    """The name of a picture; InvalidRequest if it is none."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidRequest(
            f"name {_shown(name)} must be 1 to {MAX_NAME} characters that can be printed."
        )
    return name


def read_lines(file: BinaryIO, media_type: str, listing: Listing) -> None:
    """Adds a list of lines: JSON Lines, or plain text. Blank lines and plain ones with # count as
    nothing."""
    file.seek(0)
    reader = BufferedReader(cast(RawIOBase, file))
    try:
        for number, line in enumerate(reader, 1):
            _read_line(line, number, media_type, listing)
    finally:
        reader.detach()


def _read_line(line: bytes, number: int, media_type: str, listing: Listing) -> None:
    where = f"line {number}"
    try:
        text = _text(line, is_first=number == 1)
        if text and not (media_type == PLAIN and text.startswith("#")):
            listing.add(where, text if media_type == PLAIN else json.loads(text))
    except (ValueError, RecursionError):
        listing.reject(where, InvalidRequest.code, f"{_shown(line[:80])} cannot be read.")


def read_json(data: bytes) -> dict[str, Any]:
    """The fields of a JSON body; a bare list is the addresses. Raises InvalidRequest."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is no JSON: {error}.") from error
    if isinstance(body, list):
        return {"image_urls": body}
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a list of addresses, or an object with image_urls.")
    return body


def _text(line: bytes, is_first: bool) -> str:
    """The line without spaces around it, and without the mark that Windows puts first."""
    return line.decode("utf-8-sig" if is_first else "utf-8").strip()


def _shown(value: object) -> str:
    with suppress(TypeError, ValueError):
        if not isinstance(value, bytes):
            return json.dumps(value)[:80]
    return repr(value)[:80]
