"""labelme's file of one picture, to go on with by hand."""

from collections.abc import Iterator
from typing import Any

from seg_pipeline.exports.json_pieces import compact, with_list
from seg_pipeline.exports.pictures import Export, ExportedSegment
from seg_pipeline.exports.rings import at_least_three, part_line, segment_outlines

TOLERANCE = 1.0

_VERSION = "5.5.0"
"""The release of labelme whose keys these are; later ones read them."""


def labelme_document(export: Export) -> Iterator[bytes]:
    """A polygon for each part of each segment; those of one segment have its id as `group_id`.

    Points are the centres of pixels, as labelme draws polygons. Holes hang on lines of one pixel's
    width.
    """
    picture = export.picture
    head: dict[str, Any] = {
        "version": _VERSION,
        "flags": {},
        "imagePath": picture.shown_name,
        "imageData": None,
        "imageWidth": picture.resolution_wh[0],
        "imageHeight": picture.resolution_wh[1],
    }
    shapes = (compact(shape) for segment in picture.segments for shape in _shapes(export, segment))
    return with_list(head, "shapes", shapes)


def _shapes(export: Export, segment: ExportedSegment) -> Iterator[dict[str, Any]]:
    tolerance = TOLERANCE if export.tolerance is None else export.tolerance
    for part in segment_outlines(export, segment):
        yield {
            "label": segment.label,
            "points": at_least_three(part_line(part, tolerance)).tolist(),
            "group_id": segment.segment_id,
            "description": segment.name or "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
