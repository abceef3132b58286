"""Polygons with holes, as GeoJSON has them, in pixels of the picture."""

from collections.abc import Iterable, Iterator
from typing import Any

from seg_pipeline.exports.json_pieces import compact, listed, with_list
from seg_pipeline.exports.pictures import Export, ExportedSegment
from seg_pipeline.exports.rings import closed, segment_outlines, simplified
from seg_pipeline.imaging.outlines import Outline, Points


def polygon_document(export: Export) -> Iterator[bytes]:
    """A FeatureCollection with a MultiPolygon for each segment, exact unless a tolerance is given.

    Points are corners of pixels: x to the right, y down, the picture's own corner at 0, 0.
    """
    picture = export.picture
    head = {
        "type": "FeatureCollection",
        "picture": {
            "file_name": picture.shown_name,
            "width": picture.resolution_wh[0],
            "height": picture.resolution_wh[1],
        },
    }
    features = (_feature(export, segment) for segment in picture.segments)
    return with_list(head, "features", features)


def _feature(export: Export, segment: ExportedSegment) -> Iterator[bytes]:
    properties: dict[str, Any] = {"label": segment.label, "area": segment.area, **segment.scores}
    head = {"type": "Feature", "id": segment.segment_id, "properties": properties}
    yield compact(head)[:-1] + b',"geometry":{"type":"MultiPolygon","coordinates":'
    tolerance = export.tolerance or 0
    yield from listed(_part(part, tolerance) for part in segment_outlines(export, segment))
    yield b"}}"


def _part(part: Outline, tolerance: float) -> Iterator[bytes]:
    rings = (part.exterior, *part.holes)
    return listed(_ring(simplified(ring.corners, tolerance)) for ring in rings)


def _ring(points: Points) -> Iterable[bytes]:
    return listed(compact(piece.tolist())[1:-1] for piece in closed(points))
