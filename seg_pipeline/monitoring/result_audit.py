"""Whether the newest results are what they say: judged from what is stored, not from what was
computed.

Each check takes the audited results and gives a verdict that names the bad ones.
"""

import heapq
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from seg_pipeline.domain import JobStatus, Mask
from seg_pipeline.errors import ImageError, ObjectNotFound
from seg_pipeline.imaging.masks import decode_mask_png
from seg_pipeline.jobs.markers import each_marker, marker_name
from seg_pipeline.jobs.records import Result, SegmentRecord
from seg_pipeline.jobs.stored_jobs import read_result
from seg_pipeline.store import Store, keys

NEWEST = 50
MASKS_A_RESULT = 20
"""The largest of a result are read; a picture may have hundreds."""

RECENT = 10
USUAL_FACTOR = 4.0
USUAL_DIFFERENCE = 3.0
"""The recent results' median may differ so much from that of the earlier ones."""


@dataclass(frozen=True)
class AuditedResult:
    """A result, its largest masks as they were read, and the keys of files that are missing.

    `masks` has None for a file that is no mask.
    """

    result: Result
    masks: tuple[tuple[SegmentRecord, Mask | None], ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditVerdict:
    """What a check says of the audited results; `bad` has a sentence for each bad one, by uuid."""

    audited: int
    bad: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no result is bad."""
        return not self.bad


def newest_results(store: Store, limit: int = NEWEST) -> list[Result]:
    """The completed jobs that ended last, earliest first. No file but their results is read."""
    markers = each_marker(store, keys.done(JobStatus.COMPLETED, ""))
    newest = heapq.nlargest(limit, markers, key=lambda info: (info.last_modified, info.key))
    reads = [partial(read_result, store, marker_name(info)) for info in reversed(newest)]
    return [stored.result for stored in store.at_once(reads) if stored]


def audited(store: Store, result: Result, max_pixels: int) -> AuditedResult | None:
    """The result with what is read of its files; None if the job was deleted meanwhile."""
    stored = {info.key for info in store.list(keys.asset(result.uuid, ""))}
    if keys.request(result.uuid) not in stored:
        return None
    named = {*result.files_of_segments, result.original_key or "", result.overlay_key or ""}
    largest = [each for each in result.segments[:MASKS_A_RESULT] if each.mask_key in stored]
    masks = store.at_once(
        [partial(_mask, store, segment.mask_key, max_pixels) for segment in largest]
    )
    missing = tuple(sorted(named - stored - {""}))
    return AuditedResult(result, tuple(zip(largest, masks, strict=True)), missing)


def _mask(store: Store, key: str, max_pixels: int) -> Mask | None:
    try:
        return decode_mask_png(store.get(key), max_pixels)
    except (ImageError, ObjectNotFound, ValueError):
        return None


def boxes_inside(results: Sequence[AuditedResult]) -> AuditVerdict:
    """Every segment's box lies inside its picture."""
    return _each(results, _boxes_outside)


def masks_not_empty(results: Sequence[AuditedResult]) -> AuditVerdict:
    """Every mask can be read, and has a pixel."""
    return _each(results, _unreadable_masks)


def areas_agree(results: Sequence[AuditedResult]) -> AuditVerdict:
    """The area and the box that the result names are those of the stored mask."""
    return _each(results, _wrong_areas)


def files_there(results: Sequence[AuditedResult]) -> AuditVerdict:
    """Every file that the result names is in the store."""
    return _each(results, lambda each: iter(f"{key} is missing" for key in each.missing))


def count_usual(results: Sequence[AuditedResult]) -> AuditVerdict:
    """The models find about as many segments as before: the median of each one's last ten results
    is within four times, or three segments, of the median of the earlier ones."""
    counts: dict[str, list[int]] = defaultdict(list)
    for each in results:
        counts[each.result.model].append(len(each.result.segments))
    bad = {model: text for model, found in counts.items() if (text := _unusual(found))}
    return AuditVerdict(len(results), bad)


CHECKS: Mapping[str, Callable[[Sequence[AuditedResult]], AuditVerdict]] = {
    check.__name__: check
    for check in (boxes_inside, masks_not_empty, areas_agree, files_there, count_usual)
}


def _each(
    results: Sequence[AuditedResult], faults: Callable[[AuditedResult], Iterator[str]]
) -> AuditVerdict:
    first = {each.result.uuid: next(faults(each), None) for each in results}
    return AuditVerdict(len(results), {uuid: text for uuid, text in first.items() if text})


def _boxes_outside(each: AuditedResult) -> Iterator[str]:
    width, height = each.result.width or 0, each.result.height or 0
    for segment in each.result.segments:
        box = segment.bbox
        if box.x + box.width > width or box.y + box.height > height:
            yield f"segment {segment.segment_id} leaves the picture of {width}x{height}"


def _unreadable_masks(each: AuditedResult) -> Iterator[str]:
    for segment, mask in each.masks:
        if mask is None or not mask.area:
            yield f"the mask of segment {segment.segment_id} is empty, or no mask"


def _wrong_areas(each: AuditedResult) -> Iterator[str]:
    for segment, mask in each.masks:
        if mask is not None and (mask.area, mask.box) != (segment.area, segment.bbox):
            yield (
                f"segment {segment.segment_id} has {mask.area} pixels, and {segment.area} in the"
                " result"
            )


def _unusual(counts: Sequence[int]) -> str | None:
    """What is unusual about a model's last counts; None if there are too few to tell."""
    earlier, recent = counts[:-RECENT], counts[-RECENT:]
    if len(earlier) < RECENT:
        return None
    before, now = statistics.median(earlier), statistics.median(recent)
    is_near = abs(now - before) <= USUAL_DIFFERENCE
    if is_near or max(now, before) <= USUAL_FACTOR * min(now, before):
        return None
    return f"{now:g} segments a picture lately, {before:g} before"
