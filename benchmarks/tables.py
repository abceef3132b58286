"""Figures as Markdown."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure: what it is, what came out, its spread, and what was asked of it."""

    figure: str
    median: str
    spread: str = ""
    target: str = ""


@dataclass(frozen=True)
class Findings:
    """What a part found, and what draws a plot of it into a file, if something does."""

    rows: list[Row]
    draw: Callable[[Path], None] | None = None


def row_of(
    figure: str, values: Sequence[float], unit: str = "", target: str = "", note: str = ""
) -> Row:
    """The median of several measurements, with the least and the most of them, to three digits."""
    low, middle, high = map(_three_digits, (min(values), statistics.median(values), max(values)))
    unit = f" {unit}" if unit else ""
    spread = f"{low} to {high}{unit}" if len(values) > 1 else ""
    return Row(figure, f"{middle}{unit}", ", ".join(filter(None, [spread, note])), target)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| figure | median | spread | target |", "|---|---|---|---|"]
    return "\n".join(
        lines + [f"| {row.figure} | {row.median} | {row.spread} | {row.target} |" for row in rows]
    )


def replace_section(report: Path, name: str, text: str) -> None:
    """Puts the text between the report's markers `<!-- name -->` and `<!-- /name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = report.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{report} has no section between {begin} and {end}")
    report.write_text(f"{before}{begin}\n{text}\n{end}{after}")
