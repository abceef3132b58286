"""Results in the forms of other libraries."""

from collections.abc import Sequence
from typing import Any

from seg_client.answers import JobAnswer, SegmentAnswer
from seg_client.extras import library
from seg_client.masks import BoolMask


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


def label_studio_task(result: JobAnswer, image: str, tag: str = "label") -> dict[str, Any]:
    """A task for Label Studio, whose prediction has a rectangle for each segment.

    `image` is the picture's address as Label Studio reaches it, `tag` the name of the
    `RectangleLabels` in its configuration. Positions are percents of the picture.
    """
    regions = [_rectangle(result, each, tag) for each in result.segments]
    return {
        "data": {"image": image},
        "predictions": [{"model_version": result.model, "result": regions}],
    }


def _rectangle(result: JobAnswer, segment: SegmentAnswer, tag: str) -> dict[str, Any]:
    width, height = result.width or 1, result.height or 1
    box, score = segment.bbox, score_of(segment)
    return {
        "id": f"{result.uuid}-{segment.segment_id}",
        "type": "rectanglelabels",
        "from_name": tag,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "x": 100 * box.x / width,
            "y": 100 * box.y / height,
            "width": 100 * box.width / width,
            "height": 100 * box.height / height,
            "rotation": 0,
            "rectanglelabels": [segment.label or "segment"],
        },
        **({} if score is None else {"score": score}),
    }


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
