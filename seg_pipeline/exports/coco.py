"""COCO's instance segmentation document of one picture, which pycocotools reads."""

from collections.abc import Iterator
from typing import Any

from seg_pipeline.exports.categories import category_ids
from seg_pipeline.exports.json_pieces import compact, with_list
from seg_pipeline.exports.pictures import Export, ExportedPicture, ExportedSegment
from seg_pipeline.imaging.mask_rows import PackedMask
from seg_pipeline.imaging.run_lengths import windows_to_rle

_IMAGE_ID = 1


def coco_document(export: Export) -> Iterator[bytes]:
    """The document in pieces: a mask is in memory at a time.

    `segmentation` is compressed run lengths. The annotations have a `score` and so are the list of
    results that `COCO.loadRes` takes, too.
    """
    ids = category_ids(export.picture.labels)
    head = {
        "info": _info(export.picture),
        "licenses": [],
        "images": [_image(export.picture)],
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for name, number in ids.items()
        ],
    }
    annotations = (
        compact(_annotation(export, segment, ids[segment.label]))
        for segment in export.picture.segments
    )
    return with_list(head, "annotations", annotations)


def _info(picture: ExportedPicture) -> dict[str, Any]:
    return {
        "description": f"Job {picture.uuid}, segmented by {picture.model}",
        "version": "1.0",
        "year": picture.completed_at.year,
        "contributor": "",
        "url": "",
        "date_created": f"{picture.completed_at:%Y/%m/%d}",
    }


def _image(picture: ExportedPicture) -> dict[str, Any]:
    width, height = picture.resolution_wh
    return {
        "id": _IMAGE_ID,
        "file_name": picture.shown_name,
        "width": width,
        "height": height,
        "date_captured": f"{picture.completed_at:%Y-%m-%d %H:%M:%S}",
        "license": 0,
    }


def _annotation(export: Export, segment: ExportedSegment, category_id: int) -> dict[str, Any]:
    mask = PackedMask.read(export.mask_rows(segment))
    box = segment.box
    return {
        "id": segment.segment_id + 1,  # evaluation takes an id of 0 for no match
        "image_id": _IMAGE_ID,
        "category_id": category_id,
        "segmentation": windows_to_rle(mask.resolution_wh, mask.columns()),
        "bbox": [float(side) for side in (box.x, box.y, box.width, box.height)],
        "area": float(segment.area),
        "iscrowd": 0,
        "score": 1.0 if segment.score is None else segment.score,
        **segment.scores,
    }
