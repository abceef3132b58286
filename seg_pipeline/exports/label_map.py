"""One picture of numbers: which segment each pixel belongs to."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seg_pipeline.exports.pictures import Export, ExportedSegment
from seg_pipeline.imaging.grey_png import grey_png
from seg_pipeline.imaging.mask_rows import MaskRows, unpacked
from seg_pipeline.imaging.pixels import strips


def label_map(export: Export) -> Iterator[bytes]:
    """A grey PNG of 16 bits: 0 for the background, else `segment_id + 1`.

    Where segments overlap, the smaller one is on top; of equals the one with the greater id.
    """
    return grey_png(export.picture.resolution_wh, 16, _label_strips(export))


def _label_strips(export: Export) -> Iterator[NDArray[np.uint16]]:
    """Strips of rows. Of every mask that has begun and not ended, only the packed file is held."""
    width, height = export.picture.resolution_wh
    order = sorted(export.picture.segments, key=lambda each: (-each.area, each.segment_id))
    begun: dict[int, MaskRows] = {}
    for strip in strips(height, width):
        labels = np.zeros((strip.stop - strip.start, width), dtype=np.uint16)
        for segment in (each for each in order if _reaches(each, strip)):
            if segment.segment_id not in begun:
                begun[segment.segment_id] = export.mask_rows(segment)
                begun[segment.segment_id].skip(strip.start)
            _draw(labels, begun[segment.segment_id], segment)
            if segment.box.y + segment.box.height <= strip.stop:
                del begun[segment.segment_id]
        yield labels


def _reaches(segment: ExportedSegment, strip: slice) -> bool:
    last = segment.box.y + segment.box.height
    return bool(segment.box.y < strip.stop and strip.start < last)


def _draw(labels: NDArray[np.uint16], rows: MaskRows, segment: ExportedSegment) -> None:
    """Draws the segment's next rows on the labels."""
    first, last = segment.box.x // 8, (segment.box.x + segment.box.width + 7) // 8
    bits = unpacked(rows.take(len(labels))[:, first:last], labels.shape[1] - 8 * first)
    labels[:, 8 * first : 8 * first + bits.shape[1]][bits] = segment.segment_id + 1
