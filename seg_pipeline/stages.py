"""The story of a job: source → segments → cutouts → result → callback. What a stage stores is what the next one reads.

Each stage takes the jobs of one run and says which went well and which did not; one bad picture never stops the
others. Inside a run, pixels and masks are also passed on in memory, as far as they fit.
"""

import hashlib
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from seg_pipeline.cutouts import crop_name, cut_out
from seg_pipeline.documents import Found, Timing, failed_document, read_segments, result_document, segments_document
from seg_pipeline.domain import Job, JobStatus, RgbImage, Segment
from seg_pipeline.errors import (
    JobNotFound,
    ModelError,
    NothingToTell,
    ObjectNotFound,
    SegPipelineError,
    UnexpectedError,
)
from seg_pipeline.fetching import fetch_image
from seg_pipeline.images import ImageHeader, decode, encode_original, identify
from seg_pipeline.inbox import Claim, Inbox
from seg_pipeline.masks import decode_mask_png, encode_mask_png, order_by_area
from seg_pipeline.overlays import overlay
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys

logger = logging.getLogger(__name__)

Metadata = dict[str, Any]

PICTURES_IN_MEMORY_BYTES = 512 * 2**20
PICTURES_PER_CALL = 8


@dataclass
class StageReport:
    """What a stage did: metadata of each job that went well, the error of each that did not, and the jobs that need no
    further stage though they went well."""

    metadata: dict[str, Metadata] = field(default_factory=dict)
    errors: dict[str, SegPipelineError] = field(default_factory=dict)
    at_their_end: set[str] = field(default_factory=set)

    @property
    def passed(self) -> list[str]:
        """The jobs that go on to the next stage."""
        return [uuid for uuid in self.metadata if uuid not in self.at_their_end]


@dataclass
class Workbench:
    """What the stages work with, and what earlier stages of the same run left in memory."""

    settings: Settings
    store: Store
    models: WarmModels
    fetch: Callable[[str, Settings], bytes] = fetch_image

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.store)
        self.encoders = ThreadPoolExecutor(max_workers=os.cpu_count() or 2, thread_name_prefix="encode")
        self._pictures: dict[str, RgbImage] = {}
        self._found: dict[str, Found] = {}
        self._seconds: dict[str, dict[str, float]] = defaultdict(dict)
        self._started_at: dict[str, datetime] = {}
        self._published: set[str] = set()

    @contextmanager
    def run(self) -> Iterator[None]:
        """One run: what it leaves in memory is gone at its end."""
        try:
            yield
        finally:
            for left in (self._pictures, self._found, self._seconds, self._started_at, self._published):
                left.clear()

    @contextmanager
    def timed(self, uuid: str, stage: str) -> Iterator[None]:
        """Adds the seconds of what happens inside to the job's account."""
        self._started_at.setdefault(uuid, datetime.now(UTC))
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(uuid, stage, time.perf_counter() - begin)

    def add_seconds(self, uuid: str, stage: str, seconds: float) -> None:
        """Adds to what a stage of a job took."""
        self._seconds[uuid][stage] = self._seconds[uuid].get(stage, 0.0) + seconds

    def seconds(self, uuid: str, stage: str) -> float:
        """What a stage of a job took in this run, rounded to 0.1 ms."""
        return round(self._seconds[uuid].get(stage, 0.0), 4)

    def timing(self, uuid: str) -> Timing:
        """The job's account, closed now."""
        now = datetime.now(UTC)
        return Timing(self._started_at.get(uuid, now), now, self._seconds[uuid])

    def keep_picture(self, uuid: str, image: RgbImage) -> None:
        """Leaves a picture for the next stages, while there is room."""
        if image.nbytes + sum(kept.nbytes for kept in self._pictures.values()) <= PICTURES_IN_MEMORY_BYTES:
            self._pictures[uuid] = image

    def picture(self, uuid: str) -> RgbImage:
        """The job's picture, from memory or from its stored source."""
        kept = self._pictures.get(uuid)
        return kept if kept is not None else decode(self._source(uuid), self.settings.max_image_pixels)

    def _source(self, uuid: str) -> bytes:
        extension = json.loads(self.store.get(keys.source_info(uuid)))["extension"]
        return self.store.get(keys.source(uuid, extension))

    def keep_found(self, uuid: str, found: Found) -> None:
        """Leaves a job's segments for the next stages."""
        self._found[uuid] = found

    def found(self, uuid: str) -> Found:
        """The job's segments, from memory or as they are stored."""
        return self._found.get(uuid) or self._stored_found(uuid)

    def keep_published(self, uuid: str) -> None:
        """Notes that the job's result is of this run."""
        self._published.add(uuid)

    def has_published(self, uuid: str) -> bool:
        """Whether the job's result is of this run."""
        return uuid in self._published

    def _stored_found(self, uuid: str) -> Found:
        document = json.loads(self.store.get(keys.segments(uuid)))
        pngs = (self.store.get(keys.mask(uuid, index)) for index in range(len(document["segments"])))
        return read_segments(document, [decode_mask_png(png, self.settings.max_image_pixels) for png in pngs])


def prepare_sources(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Gets each picture, from its upload or its URL, checks that it decodes, and stores it as received."""
    return _each(bench, uuids, lambda uuid: _prepare_source(bench, uuid))


def find_segments(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Runs the models, and stores masks and scores. Masks of one picture are encoded while the next is segmented."""
    report = StageReport()
    encoding: dict[str, Future[Metadata]] = {}
    for asked, group in _by_call(bench, uuids, report).items():
        for uuid, found in _segment_group(bench, asked, group, report):
            encoding[uuid] = bench.encoders.submit(_store_segments, bench, uuid, found)
    for uuid, future in encoding.items():
        _note(report, uuid, future.result)
    return report


def cut_segments(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Stores the picture as WEBP, a cut-out of each segment, and the picture with its segments drawn on."""
    return _each(bench, uuids, lambda uuid: _cut_segments(bench, uuid))


def publish_results(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Writes each job's document, which finishes it: from then on clients are answered, and the app server is told of
    those jobs that it waits for; the others are at their end."""
    awaited: set[str] = set()
    report = _each(bench, uuids, lambda uuid: _publish_result(bench, uuid, awaited))
    report.at_their_end = set(uuids) - awaited
    return report


def record_callbacks(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Has the app server told of each job, and does not wait for it: that is the courier's work.

    A result of this very run was recorded when it was published; an older one is told once more.
    """
    return _each(bench, uuids, lambda uuid: _record_callback(bench, uuid))


def record_failure(bench: Workbench, uuid: str, error: SegPipelineError, claim: Claim | None) -> bool:
    """Finishes a job as failed if another attempt cannot help or none is left; says whether it did.

    An operator's rerun (no claim) that fails leaves an earlier good result as it is.
    """
    attempts_left = claim is not None and claim.attempt < bench.settings.max_attempts
    if attempts_left and not error.permanent:
        return False
    fail_job(bench.inbox, uuid, error, bench.timing(uuid), keep_completed=claim is None)
    return True


def fail_job(
    inbox: Inbox, uuid: str, error: SegPipelineError, timing: Timing | None = None, *, keep_completed: bool = False
) -> None:
    """Writes the failed job's document, so that its client is told. A job that was deleted stays so."""
    earlier = inbox.result(uuid)
    if keep_completed and earlier and earlier["status"] == JobStatus.COMPLETED:
        return
    try:
        job = inbox.job(uuid)
    except JobNotFound:
        inbox.delete(uuid)
        return
    now = datetime.now(UTC)
    document = failed_document(job, error, timing or Timing(now, now))
    inbox.finish(uuid, document, JobStatus.FAILED, datetime.fromisoformat(document["expires_at"]))


def _prepare_source(bench: Workbench, uuid: str) -> Metadata:
    with bench.timed(uuid, "source_image"):
        job = bench.inbox.job(uuid)
        data = _source_bytes(bench, job)
        header = identify(data, bench.settings.max_image_pixels)
        bench.keep_picture(uuid, decode(data, bench.settings.max_image_pixels))
        info = _store_source(bench, job, data, header)
    return {**info, "seconds": bench.seconds(uuid, "source_image"), "image_url": job.image_url or "(upload)"}


def _source_bytes(bench: Workbench, job: Job) -> bytes:
    """The upload, or what an earlier attempt stored, or the URL's answer: a rerun works on the same bytes."""
    if job.source_extension is not None:
        return bench.store.get(keys.source(job.uuid, job.source_extension))
    try:
        return bench._source(job.uuid)
    except ObjectNotFound:
        return bench.fetch(job.image_url or "", bench.settings)


def _store_source(bench: Workbench, job: Job, data: bytes, header: ImageHeader) -> Metadata:
    extension = job.source_extension or header.extension
    if job.image_url is not None:
        bench.store.put(keys.source(job.uuid, extension), data)
    info = {
        "extension": extension,
        "format": header.format,
        "width": header.width,
        "height": header.height,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    bench.store.put(keys.source_info(job.uuid), json.dumps(info).encode())
    return info


class _Asked(NamedTuple):
    """What jobs must have in common to share a call of a model."""

    model: str
    parameters: tuple[tuple[str, int | float], ...]

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.model, tuple(sorted(job.parameters.items())))


def _by_call(bench: Workbench, uuids: Sequence[str], report: StageReport) -> dict[_Asked, list[str]]:
    groups: dict[_Asked, list[str]] = defaultdict(list)
    for uuid in uuids:
        with _errors_into(report, uuid):
            groups[_Asked.of(bench.inbox.job(uuid))].append(uuid)
    return groups


def _segment_group(
    bench: Workbench, asked: _Asked, uuids: Sequence[str], report: StageReport
) -> Iterator[tuple[str, Found]]:
    """What the model finds in each picture, a few pictures a call; where a call fails, one by one."""
    for chunk in _chunks(uuids, PICTURES_PER_CALL):
        pictures: dict[str, RgbImage] = {}
        for uuid in chunk:
            with _errors_into(report, uuid):
                pictures[uuid] = bench.picture(uuid)
        yield from _segment_chunk(bench, asked, pictures, report)


def _segment_chunk(
    bench: Workbench, asked: _Asked, pictures: dict[str, RgbImage], report: StageReport
) -> Iterator[tuple[str, Found]]:
    if not pictures:
        return
    try:
        yield from _call_model(bench, asked, pictures)
    except ModelError as error:
        if len(pictures) == 1:
            report.errors[next(iter(pictures))] = error
            return
        for uuid, picture in pictures.items():
            yield from _segment_chunk(bench, asked, {uuid: picture}, report)


def _call_model(bench: Workbench, asked: _Asked, pictures: dict[str, RgbImage]) -> list[tuple[str, Found]]:
    with bench.models.borrow(asked.model) as segmenter:
        begin = time.perf_counter()
        answers = segmenter.segment(list(pictures.values()), dict(asked.parameters))
        seconds = (time.perf_counter() - begin) / len(pictures)
        weights_sha256 = segmenter.weights_sha256
    founds = []
    for (uuid, picture), segments in zip(pictures.items(), answers, strict=True):
        bench.add_seconds(uuid, "segments", seconds)
        found = _found(asked.model, weights_sha256, picture, seconds, segments)
        bench.keep_found(uuid, found)
        founds.append((uuid, found))
    return founds


def _found(model: str, weights_sha256: str, picture: RgbImage, seconds: float, segments: list[Segment]) -> Found:
    height, width = picture.shape[:2]
    return Found(model, weights_sha256, (width, height), round(seconds, 4), order_by_area(segments))


def _store_segments(bench: Workbench, uuid: str, found: Found) -> Metadata:
    """Masks first: the document that counts them is never there without them."""
    begin = time.perf_counter()
    written = 0
    for index, segment in enumerate(found.segments):
        png = encode_mask_png(segment.mask)
        bench.store.put(keys.mask(uuid, index), png)
        written += len(png)
    bench.store.put(keys.segments(uuid), json.dumps(segments_document(found)).encode())
    bench.add_seconds(uuid, "masks", time.perf_counter() - begin)
    return {
        "segments": len(found.segments),
        "labels": ", ".join(sorted({segment.label for segment in found.segments if segment.label})),
        "model": found.model,
        "weights_sha256": found.weights_sha256,
        "model_seconds": found.seconds,
        "mask_seconds": bench.seconds(uuid, "masks"),
        "mask_bytes": written,
    }


def _cut_segments(bench: Workbench, uuid: str) -> Metadata:
    with bench.timed(uuid, "cutouts"):
        picture, found, job = bench.picture(uuid), bench.found(uuid), bench.inbox.job(uuid)
        files = {keys.original(uuid): encode_original(picture), keys.overlay(uuid): overlay(picture, found.segments)}
        for index, segment in enumerate(found.segments):
            files[keys.crop(uuid, crop_name(uuid, index))] = cut_out(picture, segment.mask, job.resize)
        for key, data in files.items():
            bench.store.put(key, data)
    return {
        "cutouts": len(found.segments),
        "bytes": sum(map(len, files.values())),
        "resize": job.resize or 0,
        "seconds": bench.seconds(uuid, "cutouts"),
        "overlay_key": keys.overlay(uuid),
    }


def _publish_result(bench: Workbench, uuid: str, awaited: set[str]) -> Metadata:
    found, job = bench.found(uuid), bench.inbox.job(uuid)
    document = result_document(job, found, bench.timing(uuid))
    bench.inbox.finish(uuid, document, JobStatus.COMPLETED, datetime.fromisoformat(document["expires_at"]))
    bench.keep_published(uuid)
    if job.callback and bench.settings.app_server_url:
        awaited.add(uuid)
    return {
        "segments": len(found.segments),
        "expires_at": document["expires_at"],
        "waited_seconds": _seconds_between(job.accepted_at, document["started_at"]),
        "total_seconds": _seconds_between(job.accepted_at, document["completed_at"]),
        "original_key": keys.original(uuid),
        "answer_path": f"/jobs/{uuid}",
    }


def _record_callback(bench: Workbench, uuid: str) -> Metadata:
    if bench.settings.app_server_url is None:
        raise NothingToTell("APP_SERVER_URL is not set: there is nobody to tell.")
    if not bench.has_published(uuid):
        bench.inbox.outbox.replay(uuid)
    return {}


def _seconds_between(begin: datetime, end: str) -> float:
    return round((datetime.fromisoformat(end) - begin).total_seconds(), 3)


def _each(bench: Workbench, uuids: Sequence[str], work: Callable[[str], Metadata]) -> StageReport:
    """Does the work for each job, side by side; a lone job stays on this thread, where a cancel can reach it."""
    report = StageReport()
    if len(uuids) == 1:
        _note(report, uuids[0], lambda: work(uuids[0]))
        return report
    futures = {uuid: bench.encoders.submit(work, uuid) for uuid in uuids}
    for uuid, future in futures.items():
        _note(report, uuid, future.result)
    return report


def _note(report: StageReport, uuid: str, work: Callable[[], Metadata]) -> None:
    with _errors_into(report, uuid):
        report.metadata[uuid] = work()


@contextmanager
def _errors_into(report: StageReport, uuid: str) -> Iterator[None]:
    try:
        yield
    except SegPipelineError as error:
        report.errors[uuid] = error
    except Exception as error:
        logger.exception("job %s failed in a way nobody foresaw", uuid)
        report.errors[uuid] = UnexpectedError(f"An unexpected {type(error).__name__} occurred: {error}")


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
