"""The formats of exports, by their names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from seg_pipeline.exports.coco import coco_document
from seg_pipeline.exports.masks import grey_mask, grey_masks
from seg_pipeline.exports.pictures import Export


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
    """What it takes besides: `segment`, `tolerance`."""


_JSON, _PNG, _ZIP = "application/json", "image/png", "application/zip"

FORMATS = {
    each.name: each
    for each in (
        ExportFormat(
            "coco",
            _JSON,
            ".coco.json",
            "COCO's document with every mask as compressed run lengths.",
            coco_document,
        ),
        ExportFormat(
            "masks",
            _ZIP,
            ".masks.zip",
            "Every mask as a grey PNG, 255 inside and 0 outside.",
            grey_masks,
        ),
        ExportFormat(
            "mask",
            _PNG,
            ".mask.png",
            "One segment's mask as a grey PNG, 255 inside and 0 outside.",
            grey_mask,
            ("segment",),
        ),
    )
}
