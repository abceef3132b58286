"""Numbers of labels: the same for a label in every picture, where that can be."""

from pathlib import Path

import ultralytics
import yaml
from ultralytics.data.converter import coco80_to_coco91_class

from seg_pipeline.exports.categories import COCO_IDS, COCO_LABELS, category_ids, class_names


def test_cocos_labels_have_the_numbers_that_ultralytics_and_coco_give_them() -> None:
    file = Path(ultralytics.__file__).parent / "cfg/datasets/coco.yaml"
    names = yaml.safe_load(file.read_text(encoding="utf-8"))["names"]
    assert list(COCO_LABELS) == [names[number] for number in range(80)]
    assert list(COCO_IDS) == coco80_to_coco91_class()


def test_a_label_of_coco_has_one_number_in_every_picture() -> None:
    for labels in (["dog"], ["cat", "dog"]):
        assert class_names(labels).index("dog") == 16
        assert category_ids(labels)["dog"] == 18


def test_masks_without_a_label_beside_cocos_leave_these_their_numbers() -> None:
    assert class_names(["dog", "object"]) == [*COCO_LABELS, "object"]
    assert category_ids(["object", "dog"]) == {"dog": 18, "object": 91}
    assert category_ids(["object"]) == {"object": 1}


def test_other_labels_are_numbered_by_the_alphabet() -> None:
    assert class_names(["disc", "bar", "disc"]) == ["bar", "disc"]
    assert category_ids(["disc", "cat"]) == {"cat": 1, "disc": 2}


def test_without_labels_there_are_no_numbers() -> None:
    assert class_names([]) == []
    assert category_ids([]) == {}
