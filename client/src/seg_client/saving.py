"""The files that a result is saved as."""

import json
from collections.abc import Iterator
from pathlib import Path

from seg_client.answers import JobAnswer, SegmentAnswer

RESULT_NAME = "result.json"


def segment_files(segment: SegmentAnswer) -> Iterator[tuple[str, str]]:
    """The names of a segment's files, and where they are."""
    yield f"mask_{segment.segment_id:03d}.png", segment.mask_url
    yield f"crop_{segment.segment_id:03d}.webp", segment.crop_url


def result_files(result: JobAnswer) -> Iterator[tuple[str, str]]:
    """The same of all segments, after the picture and the picture with its segments drawn on."""
    if result.urls:
        yield "original.webp", result.urls[0]
    if result.overlay_url:
        yield "overlay.webp", result.overlay_url
    for segment in result.segments:
        yield from segment_files(segment)


def write_file(folder: Path, name: str, data: bytes) -> Path:
    """Writes a file into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def write_result(folder: Path, result: JobAnswer) -> Path:
    """Writes the answer itself, as JSON."""
    text = json.dumps(result.model_dump(mode="json"), indent=2)
    return write_file(folder, RESULT_NAME, text.encode())
