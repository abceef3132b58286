"""Numbers for labels. A picture's labels are numbered by the alphabet, except COCO's, which keep
their own numbers: so what is exported of many pictures fits together, and fits COCO's files."""

from collections.abc import Sequence

COCO_LABELS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
"""The 80 labels of COCO 2017, in the order of their numbers."""

_UNUSED_COCO_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED_COCO_IDS)
"""The numbers that COCO's own files give to these labels."""

FIRST_FREE_ID = 91
"""The number of what has no label beside COCO's."""

UNLABELLED = "object"
"""The label of segments whose model gives none."""


def class_names(labels: Sequence[str]) -> list[str]:
    """All names of a dataset with these labels; the place of a name is its class number from 0."""
    if not _are_of_coco(labels):
        return sorted(set(labels))
    return [*COCO_LABELS, UNLABELLED] if UNLABELLED in labels else [*COCO_LABELS]


def category_ids(labels: Sequence[str]) -> dict[str, int]:
    """COCO's category id of each of the labels, from 1."""
    names = class_names(labels)
    ids = (*COCO_IDS, FIRST_FREE_ID) if _are_of_coco(labels) else range(1, len(names) + 1)
    numbers = dict(zip(names, ids, strict=False))
    return {label: numbers[label] for label in sorted(set(labels), key=numbers.__getitem__)}


def _are_of_coco(labels: Sequence[str]) -> bool:
    """Whether all that have a label have one of COCO's, and some do."""
    named = set(labels) - {UNLABELLED}
    return bool(named) and named <= set(COCO_LABELS)
