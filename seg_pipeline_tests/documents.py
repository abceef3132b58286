"""The documents for users and operators, and the code blocks in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "client/README.md")),
        *sorted(ROOT.glob("docs/**/*.md")),
    )
}
"""Every page by its path."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block; `language` is empty where the page names none.

    `is_next` says that nothing stands between it and the block before.
    """

    page: str
    language: str
    text: str
    is_next: bool


@dataclass(frozen=True)
class Step:
    """Something to run: a command of a shell, a request of HTTP, or a block of Python.

    `shown` is what the page says that it prints, or empty.
    """

    page: str
    language: str
    text: str
    shown: str = ""


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, in their order."""
    found: list[Block] = []
    end = 0
    for match in _BLOCK.finditer(PAGES[page]):
        is_next = bool(found) and not PAGES[page][end : match.start()].strip()
        found.append(Block(page, match[1], match[2], is_next))
        end = match.end()
    return found


def steps(page: str) -> list[Step]:
    """All that a page tells people to run, in its order."""
    found: list[Step] = []
    for block in blocks(page):
        if block.language in ("json", "text") and block.is_next:
            found[-1] = replace(found[-1], shown=block.text)
        found += _steps(block)
    return found


def _steps(block: Block) -> Iterator[Step]:
    if block.language == "sh":
        for command in _commands(block.text):
            yield Step(block.page, "sh", command)
    elif block.language == "console":
        command, _, shown = block.text.removeprefix("$ ").partition("\n")
        yield Step(block.page, "sh", command, shown)
    elif block.language in ("http", "python"):
        yield Step(block.page, block.language, block.text.strip())


def _commands(text: str) -> Iterator[str]:
    """Whole commands: with their continued lines, open quotes and here-documents."""
    command = ""
    for line in text.splitlines():
        command += line
        if _is_whole(command):
            if command.strip() and not command.startswith("#"):
                yield command
            command = ""
        else:
            command += "\n"


def _is_whole(command: str) -> bool:
    if here := re.search(r"<<'(\w+)'", command):
        return command.endswith(f"\n{here[1]}")
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith("\\")
