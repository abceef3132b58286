"""Figures as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure: what it is, what came out, its spread, and what was asked of it."""

    figure: str
    median: str
    spread: str
    target: str


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| figure | median | spread | target |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {row.figure} | {row.median} | {row.spread} | {row.target} |" for row in rows])


def replace_section(report: Path, name: str, text: str) -> None:
    """Puts the text between the report's markers `<!-- name -->` and `<!-- /name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = report.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{report} has no section between {begin} and {end}")
    report.write_text(f"{before}{begin}\n{text}\n{end}{after}")
