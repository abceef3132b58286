"""How a stage's metadata is shown in the UI: as links, a picture, a table, a point in time.

The names and types say how: `…_key` is a file's key, `…_path` a path of the API, `…_picture_key` a
file to look at. A moment is shown in the operator's time zone. Segments become a table, whose links
Dagster's own tables could not have.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from seg_pipeline.jobs.file_links import FileLinks
from seg_pipeline.jobs.records import SegmentRecord

ROWS = 20
"""Of the segments' table. Every row is some 300 bytes in Dagster's database, for each job."""

_HEAD = (
    "| id | label | score | area | box (x, y, w x h) | mask | cut-out |\n"
    "|--:|:--|--:|--:|:--|:--|:--|\n"
)


def shown_metadata(metadata: Mapping[str, Any], files: FileLinks, base_url: str) -> dict[str, Any]:
    """The metadata as Dagster takes it. `base_url` is where clients reach the API."""
    values = (_shown(name, value, files, base_url) for name, value in metadata.items())
    return dict(values)


def _shown(name: str, value: Any, files: FileLinks, base_url: str) -> tuple[str, Any]:
    if isinstance(value, datetime):
        return name, dg.MetadataValue.timestamp(value)
    if isinstance(value, tuple):
        return name, dg.MetadataValue.md(segments_table(value, files, base_url))
    if name.endswith("_picture_key"):
        link = files.url(value, base_url)
        return name.removesuffix("_key"), dg.MetadataValue.md(f"[![picture]({link})]({link})")
    if name.endswith("_key"):
        return name.removesuffix("_key"), dg.MetadataValue.url(files.url(value, base_url))
    if name.endswith("_path"):
        return name.removesuffix("_path"), dg.MetadataValue.url(f"{base_url}{value}")
    return name, value


def segments_table(segments: Sequence[SegmentRecord], files: FileLinks, base_url: str) -> str:
    """A Markdown table of the largest segments, at most `ROWS`, with links to their files."""
    rows = "".join(_row(segment, files, base_url) for segment in segments[:ROWS])
    more = len(segments) - ROWS
    return _HEAD + rows + (f"\n{more} smaller ones are in the document.\n" if more > 0 else "")


def _row(segment: SegmentRecord, files: FileLinks, base_url: str) -> str:
    box = segment.bbox
    cells = (
        segment.segment_id,
        _plain(segment.label or ""),
        _score(segment),
        f"{segment.area} ({segment.area_percent:.3g}%)",
        f"{box.x}, {box.y}, {box.width} x {box.height}",
        f"[mask]({files.url(segment.mask_key, base_url)})",
        f"[cut-out]({files.url(segment.crop_key, base_url)})",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def _score(segment: SegmentRecord) -> str:
    """The confidence of a detector, else what the model itself thinks of its mask."""
    score = segment.confidence if segment.confidence is not None else segment.predicted_iou
    return "" if score is None else f"{score:.3f}"


def _plain(text: str) -> str:
    """A label without what Markdown would read as its own: it comes with the weights."""
    return "".join(letter if letter.isalnum() or letter in " -_." else " " for letter in text)
