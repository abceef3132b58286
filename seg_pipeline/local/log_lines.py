"""A program's output, line by line: JSON for the file, and readable text for the terminal."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

OUTPUT = "output"
"""The logger of lines that are not ours. Their text names their own level."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_LEVEL_IN_TEXT = re.compile(r"\b(WARNING|ERROR|CRITICAL|FATAL)\b")
_PAINT = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_EXCEPTION = re.compile(r"^[\w.]*[A-Z]\w+: .+", re.MULTILINE)
_PLAIN = "\x1b[0m"
_LONGEST = 400


@dataclass(frozen=True)
class LogLine:
    """A line of a program: its event, its level, and its JSON (docs/log-line.schema.json)."""

    event: str
    level: str
    document: dict[str, Any]

    @property
    def is_alarming(self) -> bool:
        """Whether to show it to the user: a warning, or worse."""
        return _LEVELS.get(self.level, 20) >= _LEVELS["warning"]

    def to_bytes(self) -> bytes:
        """The line as it stands in the file."""
        return json.dumps(self.document).encode() + b"\n"

    def readable(self, in_colours: bool = False) -> str:
        """The line for people, of at most some 400 characters.

        A traceback is cut to its exception.
        """
        level = self.level.upper()
        if in_colours and self.level in _PAINT:
            level = f"{_PAINT[self.level]}{level}{_PLAIN}"
        job = self.document.get("uuid")
        about = f" (job {job})" if job and str(job) not in self.event else ""
        cause = _cause(str(self.document.get("exception", "")))
        text = self.event[:_LONGEST]
        line = text if self.document.get("logger") == OUTPUT else f"{level} {text}"
        return f"{line}{about}{f': {cause[:_LONGEST]}' if cause else ''}"


def read_log_line(data: bytes, program: str) -> LogLine | None:
    """Parses a program's line: our JSON as it is, other text as an event; None if blank."""
    text = _COLOURS.sub("", data.decode(errors="replace")).strip("\r\n")
    if not text.strip():
        return None
    document = _document(text)
    if document is None:
        match = _LEVEL_IN_TEXT.search(text)
        level = {"FATAL": "critical"}.get(match[1], match[1].lower()) if match else "info"
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        document = {
            "timestamp": now,
            "level": level,
            "process": program,
            "logger": OUTPUT,
            "event": text,
        }
    return LogLine(str(document["event"]), str(document["level"]), document)


def _cause(traceback: str) -> str:
    """The last exception that the traceback names."""
    named = _EXCEPTION.findall(traceback)
    return str(named[-1]) if named else ""


def _document(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if {"timestamp", "level", "event"} <= document.keys() else None
