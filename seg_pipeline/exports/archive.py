"""Everything that there is of a job, in one ZIP."""

import json
from collections.abc import Iterator

from seg_pipeline.exports.coco import coco_document
from seg_pipeline.exports.label_map import label_map
from seg_pipeline.exports.masks import grey_mask_entries
from seg_pipeline.exports.pictures import OVERLAY, Export, ExportedPicture
from seg_pipeline.exports.yolo import yolo_entries
from seg_pipeline.exports.zip_pieces import ZipEntry, zip_pieces

_README = """Job {uuid}, segmented by {model}: {count} segments in a picture of {width} x {height}.

images/             the picture, {file_name}
overlay.webp        the picture with its segments drawn on it
result.json         the answer of GET /jobs/{uuid}: boxes, areas, labels, scores
masks/              a mask for each segment, grey: 255 inside, 0 outside
mask_images/        the same masks, opaque black inside, transparent outside
crops/              each segment cut out, transparent around it; result.json says which is whose
label_map.png       16 bits a pixel: 0, or the segment's id + 1; smaller segments on top
coco.json           COCO's document of this picture, with masks as run lengths (pycocotools)
data.yaml, labels/  the same for ultralytics: a dataset of one picture
"""


def archive(export: Export) -> Iterator[bytes]:
    """A ZIP of the picture, its masks in every form, cut-outs, documents, and a README."""
    return zip_pieces(_entries(export), export.picture.completed_at)


def _entries(export: Export) -> Iterator[ZipEntry]:
    yield ZipEntry("README.txt", [_readme(export.picture)])
    yield ZipEntry("result.json", [json.dumps(export.picture.answer, indent=2).encode()])
    yield ZipEntry("coco.json", coco_document(export))
    yield from yolo_entries(export)
    yield ZipEntry("label_map.png", label_map(export), is_packed=True)
    yield from grey_mask_entries(export)
    yield from _stored(export)


def _stored(export: Export) -> Iterator[ZipEntry]:
    """The files that the job has already."""
    names = [OVERLAY, *(name for segment in export.picture.segments
                        for name in (segment.mask_name, segment.crop_name))]  # fmt: skip
    for name in names:
        yield ZipEntry(name, export.files.stream(name), is_packed=True)


def _readme(picture: ExportedPicture) -> bytes:
    width, height = picture.resolution_wh
    return _README.format(
        uuid=picture.uuid,
        model=picture.model,
        file_name=picture.file_name,
        count=len(picture.segments),
        width=width,
        height=height,
    ).encode()
