"""COCO's document, as pycocotools reads it."""

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from seg_pipeline.exports import Export, PictureSet, coco_of_many
from seg_pipeline_tests.builders import NOON
from seg_pipeline_tests.exports.exporting import blobs, export_of, exported, mask_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def read_by_pycocotools(folder: Path, export: Export) -> COCO:
    """The document from a file, as users load it."""
    (folder / "coco.json").write_bytes(exported("coco", export))
    return COCO(folder / "coco.json")


@pytest.mark.parametrize("labels", ["", "cat dog cat bird"])
def test_pycocotools_reads_the_very_masks(tmp_path: Path, labels: str) -> None:
    masks = blobs(4)
    export = export_of(*masks, labels=labels)
    coco = read_by_pycocotools(tmp_path, export)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(masks)
    for index, annotation in enumerate(annotations):
        mask = mask_of(export, index)
        assert np.array_equal(coco.annToMask(annotation).astype(np.bool_), mask)
        assert annotation["area"] == mask.sum() == coco_mask.area(annotation["segmentation"])
        assert annotation["bbox"] == [*coco_mask.toBbox(annotation["segmentation"])]
        assert annotation["iscrowd"] == 0


def test_its_annotations_are_results_that_pycocotools_loads(tmp_path: Path) -> None:
    """So our masks can be held against somebody's ground truth by `COCOeval`."""
    export = export_of(*blobs(3))
    coco = read_by_pycocotools(tmp_path, export)
    results = coco.loadRes(coco.dataset["annotations"])
    assert [each["score"] for each in results.loadAnns(results.getAnnIds())] == [0.875] * 3
    for index, each in enumerate(results.loadAnns(results.getAnnIds())):
        assert np.array_equal(results.annToMask(each).astype(np.bool_), mask_of(export, index))


def test_labels_are_categories_and_scores_are_kept() -> None:
    document = document_of(export_of(*blobs(2), labels="disc bar"))
    assert document["categories"] == [
        {"id": 1, "name": "bar", "supercategory": ""},
        {"id": 2, "name": "disc", "supercategory": ""},
    ]
    assert {each["category_id"] for each in document["annotations"]} == {1, 2}
    assert all(each["confidence"] == each["score"] == 0.75 for each in document["annotations"])


def test_segments_without_labels_are_objects_with_their_own_scores() -> None:
    document = document_of(export_of(*blobs(2)))
    assert [category["name"] for category in document["categories"]] == ["object"]
    assert document["annotations"][0]["predicted_iou"] == 0.875
    assert document["annotations"][0]["stability_score"] == 0.9375
    assert "confidence" not in document["annotations"][0]


def test_the_picture_is_named_by_its_job_so_that_documents_can_be_merged() -> None:
    (image,) = document_of(export_of(*blobs(1)))["images"]
    assert (image["file_name"], image["width"], image["height"]) == ("job-1.webp", 64, 48)


def test_a_picture_in_which_nothing_was_found_is_a_document_too(tmp_path: Path) -> None:
    coco = read_by_pycocotools(tmp_path, export_of())
    assert (len(coco.imgs), len(coco.anns), len(coco.cats)) == (1, 0, 0)


def document_of(export: Export) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(exported("coco", export))
    return document


def many(*exports: Export) -> PictureSet:
    return PictureSet("Batch summer", NOON, lambda: enumerate(exports, 1))


def test_pycocotools_reads_the_masks_of_many_pictures(tmp_path: Path) -> None:
    exports = [export_of(*blobs(2), labels="cat dog"), export_of(*blobs(1), labels="bird")]
    named = [
        replace(each, picture=replace(each.picture, name=f"s3://p/{index}.png"))
        for index, each in enumerate(exports)
    ]
    (tmp_path / "coco.json").write_bytes(b"".join(coco_of_many(many(*named))))
    coco = COCO(tmp_path / "coco.json")
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == [
        "s3://p/0.png",
        "s3://p/1.png",
    ]
    assert [coco.cats[number]["name"] for number in sorted(coco.cats)] == ["bird", "cat", "dog"]
    assert sorted(coco.getAnnIds()) == [1, 2, 3]
    for image_id, export in ((1, exports[0]), (2, exports[1])):
        for index, each in enumerate(coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))):
            assert np.array_equal(coco.annToMask(each).astype(np.bool_), mask_of(export, index))


def test_of_no_picture_there_is_a_document_too(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_bytes(b"".join(coco_of_many(many())))
    assert COCO(tmp_path / "coco.json").getImgIds() == []


def test_a_picture_that_goes_meanwhile_leaves_no_annotations() -> None:
    """It was among the images; what came meanwhile was not, and has none either."""
    first, second = (export_of(*blobs(1)), export_of(*blobs(1)))
    reads = iter([[(1, first)], [(2, second)]])
    document = json.loads(b"".join(coco_of_many(PictureSet("t", NOON, lambda: iter(next(reads))))))
    assert [image["id"] for image in document["images"]] == [1]
    assert document["annotations"] == []


def test_the_document_of_many_holds_one_picture_at_a_time() -> None:
    alive: list[int] = []

    def pictures() -> Iterator[tuple[int, Export]]:
        for number in range(1, 50):
            export = export_of("#.../..../..../....")
            alive.append(number)
            weakref.finalize(export.files, alive.remove, number)
            yield number, export
            assert len(alive) <= 2

    assert b"annotations" in b"".join(coco_of_many(PictureSet("t", NOON, pictures)))
