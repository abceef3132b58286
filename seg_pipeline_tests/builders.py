"""Small real things for tests, each with only what the test is about spelled out."""

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from seg_pipeline.documents import Found, Timing
from seg_pipeline.domain import BoolMask, Job, Mask, RgbImage, Segment

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def make_job(uuid: str = "job-1", **asked: Any) -> Job:
    """A job for an upload, unless an `image_url` is given."""
    if "image_url" not in asked:
        asked = {"source_sha256": "ab" * 32, "source_extension": "png", **asked}
    return Job(uuid, **{"model": "demo-yolo", "accepted_at": NOON, **asked})


def make_picture(width: int = 32, height: int = 24, seed: int = 0) -> RgbImage:
    """A smooth `(H, W, 3) uint8` picture whose pixels differ everywhere."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), (x + y + seed * 40) % 256], axis=-1)
    return ramp.astype(np.uint8)


def picture_bytes(picture: RgbImage | None = None, format: str = "PNG", **options: Any) -> bytes:
    """The picture in a file format of Pillow's."""
    return saved(Image.fromarray(make_picture() if picture is None else picture), format, **options)


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    """A Pillow picture of any mode as a file's bytes."""
    buffer = BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def bits(drawing: str) -> BoolMask:
    """A full-frame `(H, W) bool` drawn as text: `#` is set, `.` is not, a line or a `/` a row."""
    rows = [row.strip() for row in drawing.replace("/", "\n").split("\n") if row.strip()]
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def drawn(mask: Mask) -> str:
    """The mask as `bits` reads it, rows divided by `/`."""
    return "/".join("".join("#" if pixel else "." for pixel in row) for row in mask.full())


def make_mask(drawing: str = "..../.##./.##./....") -> Mask:
    """A mask drawn as text; at least one `#`."""
    mask = Mask.from_full(bits(drawing))
    assert mask is not None, "the drawing has no #"
    return mask


def make_segment(drawing: str = "..../.##./.##./....", **scores: Any) -> Segment:
    """A segment as YOLO gives it, unless scores are named."""
    return Segment(make_mask(drawing), **(scores or {"label": "disc", "confidence": 0.75}))


def make_found(*drawings: str, **fields: Any) -> Found:
    """What a model found: a segment for each drawing; none without drawings."""
    segments = [make_segment(drawing) for drawing in drawings]
    size = segments[0].mask.resolution_wh if segments else (4, 4)
    return Found(**{"model": "demo-yolo", "weights_sha256": "0" * 64, "resolution_wh": size, "seconds": 0.125,
                    "segments": segments, **fields})  # fmt: skip


def make_timing(started_at: datetime = NOON, completed_at: datetime = NOON, **seconds: float) -> Timing:
    """When a job was worked on."""
    return Timing(started_at, completed_at, seconds)
