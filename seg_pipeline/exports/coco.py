"""COCO's instance segmentation document of one picture or many, which pycocotools reads."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any

from seg_pipeline.exports.categories import category_ids
from seg_pipeline.exports.json_pieces import compact, listed, with_list
from seg_pipeline.exports.pictures import Export, ExportedPicture, ExportedSegment
from seg_pipeline.imaging.mask_rows import PackedMask
from seg_pipeline.imaging.run_lengths import windows_to_rle

_IMAGE_ID = 1


@dataclass(frozen=True)
class PictureSet:
    """Many pictures: what they are, as of when, and all of them in order.

    `pictures` gives each time the same pictures, by numbers from 1 that stay. Some may be missing
    the second time.
    """

    title: str
    made_at: datetime
    pictures: Callable[[], Iterator[tuple[int, Export]]]


def coco_document(export: Export) -> Iterator[bytes]:
    """The document in pieces: a mask is in memory at a time.

    `segmentation` is compressed run lengths. The annotations have a `score` and so are the list of
    results that `COCO.loadRes` takes, too.
    """
    ids = category_ids(export.picture.labels)
    head = {
        "info": _info(_title(export.picture), export.picture.completed_at),
        "licenses": [],
        "images": [_image(export.picture, _IMAGE_ID)],
        "categories": _categories(ids),
    }
    return with_list(head, "annotations", _annotations(export, _IMAGE_ID, ids, count(1)))


def coco_of_many(pictures: PictureSet) -> Iterator[bytes]:
    """The document of many pictures in pieces: of them, one is in memory at a time.

    They are read twice: for images and labels, then for annotations.
    """
    head = {"info": _info(pictures.title, pictures.made_at), "licenses": []}
    seen, labels = set[int](), set[str]()

    def images() -> Iterator[bytes]:
        for number, export in pictures.pictures():
            seen.add(number)
            labels.update(export.picture.labels)
            yield compact(_image(export.picture, number))

    def annotations() -> Iterator[bytes]:
        ids, numbers = category_ids(sorted(labels)), count(1)
        for number, export in pictures.pictures():
            if number in seen and labels.issuperset(export.picture.labels):
                yield from _annotations(export, number, ids, numbers)

    yield compact(head)[:-1] + b',\n"images":'
    yield from listed(images())
    yield b',\n"categories":' + compact(_categories(category_ids(sorted(labels))))
    yield b',\n"annotations":'
    yield from listed(annotations())
    yield b"}\n"


def _annotations(
    export: Export, image_id: int, ids: dict[str, int], numbers: Iterator[int]
) -> Iterator[bytes]:
    for segment in export.picture.segments:
        # Evaluation takes an id of 0 for no match, so the numbers begin at 1.
        entry = _annotation(export, segment, ids[segment.label])
        yield compact({"id": next(numbers), "image_id": image_id, **entry})


def _categories(ids: dict[str, int]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]


def _title(picture: ExportedPicture) -> str:
    return f"Job {picture.uuid}, segmented by {picture.model}"


def _info(title: str, made_at: datetime) -> dict[str, Any]:
    return {
        "description": title,
        "version": "1.0",
        "year": made_at.year,
        "contributor": "",
        "url": "",
        "date_created": f"{made_at:%Y/%m/%d}",
    }


def _image(picture: ExportedPicture, image_id: int) -> dict[str, Any]:
    width, height = picture.resolution_wh
    return {
        "id": image_id,
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
        "category_id": category_id,
        "segmentation": windows_to_rle(mask.resolution_wh, mask.columns()),
        "bbox": [float(side) for side in (box.x, box.y, box.width, box.height)],
        "area": float(segment.area),
        "iscrowd": 0,
        "score": 1.0 if segment.score is None else segment.score,
        **segment.scores,
        **segment.naming,
    }
