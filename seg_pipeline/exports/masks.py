"""Masks as grey PNGs of 0 and 255, which every reader shows as they are."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.exports.pictures import Export, ExportedSegment
from seg_pipeline.exports.zip_pieces import ZipEntry, zip_pieces
from seg_pipeline.imaging.grey_png import grey_png
from seg_pipeline.imaging.mask_rows import unpacked
from seg_pipeline.imaging.pixels import strips


def grey_mask(export: Export) -> Iterator[bytes]:
    """One segment's mask, 255 inside and 0 outside, as large as the picture."""
    return _grey_mask(export, export.picture.segments[export.segment_id])


def grey_masks(export: Export) -> Iterator[bytes]:
    """A ZIP of all of them, `masks/mask_000.png` and so on."""
    return zip_pieces(grey_mask_entries(export), export.picture.completed_at)


def grey_mask_entries(export: Export) -> Iterator[ZipEntry]:
    """The files of that ZIP."""
    for segment in export.picture.segments:
        name = f"masks/mask_{segment.segment_id:03d}.png"
        yield ZipEntry(name, _grey_mask(export, segment), is_packed=True)


def _grey_mask(export: Export, segment: ExportedSegment) -> Iterator[bytes]:
    return grey_png(export.picture.resolution_wh, 8, _grey_strips(export, segment))


def _grey_strips(export: Export, segment: ExportedSegment) -> Iterator[NDArray[np.uint8]]:
    rows = export.mask_rows(segment)
    width, height = rows.resolution_wh
    for strip in strips(height, width):
        packed = rows.take(strip.stop - strip.start)
        yield unpacked(packed, width).view(np.uint8) * np.uint8(255)
