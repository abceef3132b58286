"""A job's segments in the forms that other programs read: masks and records in, bytes out.

`FORMATS[name].write(Export(ExportedPicture.of(answer), files))` gives a file in pieces, holding one
mask at a time. Nothing here knows where the files are.
"""

from seg_pipeline.exports.coco import PictureSet, coco_of_many
from seg_pipeline.exports.pictures import Export, ExportedPicture, Files
from seg_pipeline.exports.registry import FORMATS, ExportFormat

__all__ = [
    "FORMATS",
    "Export",
    "ExportFormat",
    "ExportedPicture",
    "Files",
    "PictureSet",
    "coco_of_many",
]
