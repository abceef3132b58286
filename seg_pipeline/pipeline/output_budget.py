"""Limits on the output of one job: the number of segments, and the pixels of its cut-outs."""

from collections.abc import Sequence

from seg_pipeline.domain import Job, Segment
from seg_pipeline.errors import OutputTooLarge
from seg_pipeline.imaging.cutouts import cut_out_size


def surest(segments: Sequence[Segment], limit: int) -> list[Segment]:
    """The `limit` segments with the best scores, in their original order."""
    if len(segments) <= limit:
        return list(segments)
    best = sorted(range(len(segments)), key=lambda index: -_score(segments[index]))[:limit]
    return [segments[index] for index in sorted(best)]


def check_output(job: Job, segments: Sequence[Segment], limit: int) -> None:
    """Raises OutputTooLarge if the cut-outs together have more than `limit` pixels."""
    sizes = [cut_out_size(segment.mask, job.resize) for segment in segments]
    pixels = sum(width * height for width, height in sizes)
    if pixels > limit:
        size = f"at resize = {job.resize}" if job.resize else "at their natural size"
        raise OutputTooLarge(
            f"The {len(segments)} cut-outs {size} have {pixels} pixels, more than"
            f" MAX_OUTPUT_PIXELS = {limit}; ask for a smaller resize or fewer segments."
        )


def _score(segment: Segment) -> float:
    scores = (segment.confidence, segment.predicted_iou, segment.stability_score)
    return next((score for score in scores if score is not None), 0.0)
