"""Results in the forms of other libraries."""

from collections.abc import Mapping, Sequence
from typing import Any

from seg_client.answers import JobAnswer, SegmentAnswer
from seg_client.brush import brush_run_lengths
from seg_client.extras import library
from seg_client.masks import BoolMask

UNLABELLED = "segment"
"""The label of what has none."""


def detections(result: JobAnswer, masks: Sequence[BoolMask]) -> Any:
    """supervision's `Detections`: a row a segment, with its mask, score and class.

    Classes are numbered by their names in order. Raises ImportError without supervision.
    """
    supervision = library("supervision", "to_supervision()", "supervision")
    return supervision.Detections(**detection_fields(result, masks))


def detection_fields(result: JobAnswer, masks: Sequence[BoolMask]) -> dict[str, Any]:
    """The arguments of `Detections`: `xyxy (n, 4)`, `mask (n, H, W) bool` and the others `(n,)`.

    A score or a class that some segment has not is left out.
    """
    numpy = library("numpy", "to_supervision()", "supervision")
    size = (0, result.height or 0, result.width or 0)
    boxes = [_xyxy(each) for each in result.segments]
    scores, labels = _scores(result.segments), _labels(result.segments)
    ids = {name: number for number, name in enumerate(sorted(set(labels or ())))}
    return {
        "xyxy": numpy.array(boxes, dtype=float).reshape(-1, 4),
        "mask": numpy.stack(masks) if masks else numpy.zeros(size, dtype=bool),
        "confidence": None if scores is None else numpy.array(scores, dtype=float),
        "class_id": None if labels is None else numpy.array([ids[name] for name in labels], int),
        "data": {} if labels is None else {"class_name": numpy.array(labels, dtype=str)},
    }


def fiftyone_detections(result: JobAnswer, masks: Sequence[BoolMask]) -> Any:
    """FiftyOne's `Detections`, with each mask inside its box. Raises ImportError without it."""
    fiftyone = library("fiftyone", "to_fiftyone()", "fiftyone")
    fields = fiftyone_fields(result, masks)
    return fiftyone.Detections(detections=[fiftyone.Detection(**each) for each in fields])


def fiftyone_fields(result: JobAnswer, masks: Sequence[BoolMask]) -> list[dict[str, Any]]:
    """The arguments of each `Detection`: `bounding_box` in shares of the picture, as xywh."""
    width, height = result.width or 1, result.height or 1
    return [
        {
            "label": segment.label or UNLABELLED,
            "bounding_box": [box.x / width, box.y / height, box.width / width, box.height / height],
            "mask": mask[box.y : box.y + box.height, box.x : box.x + box.width],
            "confidence": score_of(segment),
        }
        for segment, mask in zip(result.segments, masks, strict=True)
        for box in [segment.bbox]
    ]


def label_studio_task(result: JobAnswer, image: str, tag: str = "label") -> dict[str, Any]:
    """A task for Label Studio, whose prediction has a rectangle for each segment.

    `image` is the picture's address as Label Studio reaches it, `tag` the name of the
    `RectangleLabels` in its configuration. Positions are percents of the picture.
    """
    regions = [
        {"id": f"{result.uuid}-{each.segment_id}", **_region(result, each, "rectanglelabels", tag)}
        for each in result.segments
    ]
    for region, segment in zip(regions, result.segments, strict=True):
        region["value"] |= _rectangle(result, segment)
    return _task(result, image, regions)


def label_studio_polygons(
    result: JobAnswer, features: Sequence[Mapping[str, Any]], image: str, tag: str = "label"
) -> dict[str, Any]:
    """A task for Label Studio, whose prediction has a polygon for each part of each segment.

    `features` are those of the service's `polygons`. Holes are left out: Label Studio has none in
    polygons.
    """
    regions = []
    for segment, feature in zip(result.segments, features, strict=True):
        for number, (outside, *_) in enumerate(feature["geometry"]["coordinates"]):
            region = _region(result, segment, "polygonlabels", tag)
            region["id"] = f"{result.uuid}-{segment.segment_id}-{number}"
            region["value"]["points"] = _percents(result, outside[:-1])
            regions.append(region)
    return _task(result, image, regions)


def label_studio_masks(
    result: JobAnswer, masks: Sequence[BoolMask], image: str, tag: str = "label"
) -> dict[str, Any]:
    """A task for Label Studio, whose prediction has every pixel of each mask, holes as well.

    `tag` is the name of the `BrushLabels` in its configuration.
    """
    regions = []
    for segment, mask in zip(result.segments, masks, strict=True):
        region = _region(result, segment, "brushlabels", tag)
        region["id"] = f"{result.uuid}-{segment.segment_id}"
        region["value"] |= {"format": "rle", "rle": brush_run_lengths(mask)}
        regions.append(region)
    return _task(result, image, regions)


def _task(result: JobAnswer, image: str, regions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "data": {"image": image},
        "predictions": [{"model_version": result.model, "result": regions}],
    }


def _region(result: JobAnswer, segment: SegmentAnswer, kind: str, tag: str) -> dict[str, Any]:
    """What all kinds of regions have."""
    score = score_of(segment)
    return {
        "type": kind,
        "from_name": tag,
        "to_name": "image",
        "original_width": result.width or 1,
        "original_height": result.height or 1,
        "image_rotation": 0,
        "value": {kind: [segment.label or UNLABELLED]},
        **({} if score is None else {"score": score}),
    }


def _rectangle(result: JobAnswer, segment: SegmentAnswer) -> dict[str, Any]:
    width, height, box = result.width or 1, result.height or 1, segment.bbox
    return {
        "x": 100 * box.x / width,
        "y": 100 * box.y / height,
        "width": 100 * box.width / width,
        "height": 100 * box.height / height,
        "rotation": 0,
    }


def _percents(result: JobAnswer, points: Sequence[Sequence[float]]) -> list[list[float]]:
    width, height = result.width or 1, result.height or 1
    return [[100 * x / width, 100 * y / height] for x, y in points]


def score_of(segment: SegmentAnswer) -> float | None:
    """How sure the model is: YOLO's confidence, SAM-2's predicted IoU."""
    return segment.predicted_iou if segment.confidence is None else segment.confidence


def _xyxy(segment: SegmentAnswer) -> tuple[int, int, int, int]:
    box = segment.bbox
    return box.x, box.y, box.x + box.width, box.y + box.height


def _scores(segments: Sequence[SegmentAnswer]) -> list[float] | None:
    """All scores, or None if some segment has none."""
    found = [score for each in segments if (score := score_of(each)) is not None]
    return found if len(found) == len(segments) else None


def _labels(segments: Sequence[SegmentAnswer]) -> list[str] | None:
    """All labels, or None if some segment has none."""
    found = [each.label for each in segments if each.label is not None]
    return found if len(found) == len(segments) else None
