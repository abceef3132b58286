"""The formats of exports, by their names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from seg_pipeline.exports.archive import archive
from seg_pipeline.exports.coco import coco_document
from seg_pipeline.exports.label_map import label_map
from seg_pipeline.exports.labelme import labelme_document
from seg_pipeline.exports.masks import grey_mask, grey_masks
from seg_pipeline.exports.pictures import Export
from seg_pipeline.exports.polygons import polygon_document
from seg_pipeline.exports.yolo import yolo_dataset


@dataclass(frozen=True)
class ExportFormat:
    """A form in which a picture's segments can be had."""

    name: str
    media_type: str
    suffix: str
    """What follows the job's uuid in the name of the file."""
    description: str
    write: Callable[[Export], Iterator[bytes]]
    """The file in pieces. What goes wrong is raised as they are taken."""
    options: tuple[str, ...] = ()
    """What it takes besides: `segment`, `tolerance`, `file_name`."""


_JSON, _PNG, _ZIP = "application/json", "image/png", "application/zip"
_COCO = "COCO's document, with every mask as compressed run lengths."
_YOLO = (
    "A dataset of one picture for ultralytics: the picture, a line of polygon points for each"
    " segment, and the names of the classes."
)
_POLYGONS = "Polygons with holes as in GeoJSON, in pixels; exact unless a `tolerance` is given."
_LABELME = "labelme's file, a polygon for each part of each segment."
_LABEL_MAP = "A grey PNG of 16 bits: 0, or the segment's id + 1; smaller segments on top."
_MASKS = "Every mask as a grey PNG, 255 inside and 0 outside."
_MASK = "One `segment`'s mask as a grey PNG, 255 inside and 0 outside."
_EVERYTHING = "All files of the job, with COCO's document, YOLO's labels, grey masks and label map."

FORMATS = {
    each.name: each
    for each in (
        ExportFormat("coco", _JSON, ".coco.json", _COCO, coco_document, ("file_name",)),
        ExportFormat("yolo", _ZIP, ".yolo.zip", _YOLO, yolo_dataset, ("tolerance",)),
        ExportFormat("polygons", _JSON, ".polygons.json", _POLYGONS, polygon_document,
                     ("tolerance", "file_name")),
        ExportFormat("labelme", _JSON, ".json", _LABELME, labelme_document,
                     ("tolerance", "file_name")),
        ExportFormat("label-map", _PNG, ".label-map.png", _LABEL_MAP, label_map),
        ExportFormat("masks", _ZIP, ".masks.zip", _MASKS, grey_masks),
        ExportFormat("mask", _PNG, ".mask.png", _MASK, grey_mask, ("segment",)),
        ExportFormat("zip", _ZIP, ".zip", _EVERYTHING, archive, ("tolerance",)),
    )
}  # fmt: skip
"""The formats of exports, by their names."""
