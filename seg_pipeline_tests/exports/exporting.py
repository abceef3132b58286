"""Exports of drawn masks, from files in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from seg_pipeline.domain import BoolMask, Mask, Segment
from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.exports import FORMATS, Export, ExportedPicture
from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.images import encode_original
from seg_pipeline.imaging.masks import encode_mask_png, order_by_area
from seg_pipeline.jobs.answers import finished_job
from seg_pipeline.jobs.records import completed_result
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import to_document
from seg_pipeline_tests.builders import bits, make_found, make_job, make_picture, make_timing

UUID = "job-1"


@dataclass
class MemoryFiles:
    """A job's files by their names."""

    files: dict[str, bytes] = field(default_factory=dict)

    def get(self, name: str) -> bytes:
        """The file."""
        if name not in self.files:
            raise ObjectNotFound(name)
        return self.files[name]

    def stream(self, name: str) -> Iterator[bytes]:
        """The file in two pieces."""
        data = self.get(name)
        return iter((data[:10], data[10:]))


def export_of(*masks: BoolMask | str, labels: str = "", **options: Any) -> Export:
    """An export of masks, drawn or `(H, W) bool`; `labels` has a word for each, or is empty.

    Without labels the segments have SAM-2's scores.
    """
    full = [bits(mask) if isinstance(mask, str) else mask for mask in masks]
    words: list[str] | list[None] = labels.split() or [None] * len(full)
    segments = order_by_area(_segment(mask, word) for mask, word in zip(full, words, strict=True))
    height, width = full[0].shape if full else (48, 64)
    found = replace(make_found(), segments=segments, resolution_wh=(width, height))
    result = completed_result(make_job(UUID), found, make_timing())
    answer = finished_job(result, ObjectStore.in_memory(), "http://localhost:8000")
    picture = make_picture(width, height)
    files = {"original.webp": encode_original(picture), "overlay.webp": encode_original(picture)}
    exported = ExportedPicture.of(to_document(answer))
    for entry, segment in zip(exported.segments, segments, strict=True):
        files[entry.mask_name] = encode_mask_png(segment.mask)
        files[entry.crop_name] = cut_out(picture, segment.mask)
    return Export(exported, MemoryFiles(files), **options)


def _segment(full: BoolMask, label: str | None) -> Segment:
    mask = Mask.from_full(full)
    assert mask
    if label:
        return Segment(mask, label=label, confidence=0.75)
    return Segment(mask, predicted_iou=0.875, stability_score=0.9375)


def exported(name: str, export: Export) -> bytes:
    """The whole file of a format."""
    return b"".join(FORMATS[name].write(export))


def mask_of(export: Export, index: int) -> BoolMask:
    """The segment's mask, `(H, W) bool`."""
    mask = export.mask_rows(export.picture.segments[index])
    width, height = mask.resolution_wh
    return np.unpackbits(mask.take(height), axis=1, count=width).astype(np.bool_)


def blobs(count: int, width: int = 64, height: int = 48, seed: int = 1) -> list[BoolMask]:
    """Round masks with bays, holes and islands, as models find them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        radius = random.uniform(0.1, 0.4) * min(width, height)
        centre = random.uniform(0.3, 0.7, 2) * (width, height)
        waves = np.sin(x / random.uniform(2, 6)) + np.cos(y / random.uniform(2, 6))
        distance = np.hypot(x - centre[0], y - centre[1])
        masks.append((distance + 3 * waves < radius) & ~(distance < radius / 4))
    return [mask for mask in masks if mask.any()]
