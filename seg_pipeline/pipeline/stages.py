"""The story of a job: source → segments → cutouts → result → callback. What a stage stores is what
the next one reads.

Each stage takes the jobs of one run and says which went well and which did not; one bad picture
never stops the others. A stage may be begun for some pictures while the one before it still waits
for others: as pictures arrive the model takes them, and what it found is written meanwhile (see
`assembly`). Each stage then collects its own outcomes.
"""

import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Self

from seg_pipeline.adapters.image_fetch import public_address
from seg_pipeline.domain import Job, JobStatus, RgbImage, Segment
from seg_pipeline.errors import (
    DeviceBroken,
    JobCancelled,
    JobNotFound,
    NothingToTell,
    ObjectNotFound,
    OutputTooLarge,
    PictureOnItsWay,
    SegPipelineError,
    StoreError,
    UnexpectedError,
    without_folders,
)
from seg_pipeline.imaging.cutouts import crop_name, cut_out
from seg_pipeline.imaging.decoder_pool import Decoder, shared_decoders
from seg_pipeline.imaging.images import Decoded, ImageHeader, encode_original
from seg_pipeline.imaging.masks import decode_mask_png, encode_mask_png, order_by_area
from seg_pipeline.imaging.overlays import overlay
from seg_pipeline.jobs.evidence import Evidence, remove_evidence, write_evidence
from seg_pipeline.jobs.fetches import FetchRecord, FetchState
from seg_pipeline.jobs.repository import Claim, Inbox
from seg_pipeline.jobs.result_document import (
    Document,
    Found,
    Timing,
    failed_document,
    files_of_segments,
    read_segments,
    result_document,
    segments_document,
)
from seg_pipeline.pipeline.output_budget import check_output, surest
from seg_pipeline.pipeline.run_context import Line, Outcome, make_encoders, mask_bytes
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.logs import about

logger = logging.getLogger(__name__)

Metadata = dict[str, Any]

SOURCE, SEGMENTS, CUTOUTS = "source_image", "segments", "cutouts"

PICTURES_IN_MEMORY_BYTES = 512 * 2**20
PICTURES_PER_CALL = 8
CROPS_PER_PART = 8
RERUN_FETCH_SECONDS = 10.0
"""How long a run that an operator asked for waits for a picture that has to be fetched first.
Others never wait."""


@dataclass
class StageReport:
    """What a stage did: metadata of each job that went well, the error of each that did not, and
    the jobs that need no further stage though they went well."""

    metadata: dict[str, Metadata] = field(default_factory=dict)
    errors: dict[str, SegPipelineError] = field(default_factory=dict)
    at_their_end: set[str] = field(default_factory=set)

    @property
    def passed(self) -> list[str]:
        """The jobs that go on to the next stage."""
        return [uuid for uuid in self.metadata if uuid not in self.at_their_end]


@dataclass
class Workbench:
    """What the stages work with; it outlives the runs, of which there is one at a time."""

    settings: Settings
    store: Store
    models: WarmModels
    broken: str | None = None
    """Why this process can serve no further job; None while it can."""
    decoder: Decoder = field(default_factory=shared_decoders)

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.store)
        self._encoders = make_encoders()
        self._line: Line | None = None

    @property
    def line(self) -> Line:
        """What belongs to the run in hand."""
        if self._line is None:
            self._line = Line(PICTURES_IN_MEMORY_BYTES, self._encoders)
        return self._line

    @property
    def has_begun(self) -> bool:
        """Whether the run in hand came as far as its first stage."""
        return self._line is not None

    @contextmanager
    def run(self) -> Iterator[None]:
        """One run: at its end nothing of it is left in memory, and nothing writes any more."""
        try:
            yield
        finally:
            line, self._line = self._line, None
            if line:
                line.end()

    @contextmanager
    def at_work(self) -> Iterator[Line]:
        """The line, for a stage; whatever interrupts the stage stops the line, and the next stage
        gets another."""
        line = self.line
        try:
            yield line
        except BaseException:
            self._line = None
            line.stop()
            raise

    def look_for_cancels(self, uuids: Collection[str]) -> bool:
        """Has the jobs that are wanted no more dropped between two steps; whether that is all of
        them. Raises StoreError."""
        line = self._line
        if line is None or not uuids:
            return False
        line.cancelled = self.inbox.asked_to_cancel(uuids)
        return line.cancelled == set(uuids)

    def identify(self, data: bytes) -> ImageHeader:
        """What the picture says of itself; raises ImageError."""
        return self.decoder.identify(data, self.settings.max_image_pixels)

    def decode(self, data: bytes, header: ImageHeader) -> Decoded:
        """The picture's pixels; raises ImageError."""
        return self.decoder.read(data, self.settings.max_image_pixels, header)

    def job(self, line: Line, uuid: str) -> Job:
        """The job as it was asked for, read once a run; raises JobNotFound."""
        piece = line.piece(uuid)
        piece.job = piece.job or self.inbox.job(uuid)
        return piece.job

    def stored_source(self, uuid: str) -> bytes:
        """The picture's bytes, once its source was prepared; else ObjectNotFound."""
        extension = json.loads(self.store.get(keys.source_info(uuid)))["extension"]
        return self.store.get(keys.source(uuid, extension))

    def stored_found(self, uuid: str) -> Found:
        """The job's segments, as they are stored."""
        document = json.loads(self.store.get(keys.segments(uuid)))
        names = [keys.mask(uuid, index) for index in range(len(document["segments"]))]
        pngs = self.store.at_once([partial(self.store.get, name) for name in names])
        return read_segments(
            document, [decode_mask_png(png, self.settings.max_image_pixels) for png in pngs]
        )

    def put_all(self, files: Mapping[str, bytes]) -> int:
        """Stores the files, in no order; how many bytes they are."""
        self.store.at_once([partial(self.store.put, key, data) for key, data in files.items()])
        return sum(map(len, files.values()))


def prepare_sources(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Reads each picture, uploaded or fetched before, checks that it decodes, and stores it as
    received. The model begins with those that are there."""
    with bench.at_work() as line:
        sources = {uuid: line.prepare(uuid, _prepare_source, bench, line, uuid) for uuid in uuids}
        if SEGMENTS in line.planned:
            for uuid, source in sources.items():
                line.send_for(uuid, source)
            _segment_arrivals(
                bench, line, until=lambda: all(source.done() for source in sources.values())
            )
        return _report({uuid: source.result for uuid, source in sources.items()})


def find_segments(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Runs the models, and stores masks and scores: the masks of one picture while the next is
    segmented."""
    with bench.at_work() as line:
        _send_for_pictures(bench, line, SEGMENTS, uuids)
        _segment_arrivals(bench, line)
        return _collect(line, SEGMENTS, uuids)


def cut_segments(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Stores the picture as WEBP, a cut-out of each segment, and the picture with its segments
    drawn on."""
    with bench.at_work() as line:
        _send_for_pictures(bench, line, CUTOUTS, uuids)
        while line.on_the_way:
            line.wait_for_arrivals()
            for uuid, found in _arrived(line, CUTOUTS).items():
                _cut(bench, line, uuid, found)
        return _collect(line, CUTOUTS, uuids)


def publish_results(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Writes each job's document, which finishes it: from then on clients are answered, and the app
    server is told of those jobs that it waits for; the others are at their end."""
    awaited: set[str] = set()
    report = _each(bench, uuids, lambda line, uuid: _publish_result(bench, line, uuid, awaited))
    report.at_their_end = set(uuids) - awaited
    return report


def record_callbacks(bench: Workbench, uuids: Sequence[str]) -> StageReport:
    """Has the app server told of each job, and does not wait for it: that is the courier's work.

    A result of this very run was recorded when it was published; an older one is told once more.
    """
    return _each(bench, uuids, lambda line, uuid: _record_callback(bench, line, uuid))


def jobs_of_this_run(bench: Workbench, uuids: Sequence[str]) -> list[str]:
    """Of the jobs that the run was asked for, those that still wait for it. Another run has the
    others, or has finished them: this one came late. What an operator asked for is done."""
    run_key = bench.line.run.run_key
    if run_key is None:
        return list(uuids)
    claimed = bench.store.at_once(
        [partial(bench.inbox.is_claimed_for, uuid, run_key) for uuid in uuids]
    )
    return [uuid for uuid, is_ours in zip(uuids, claimed, strict=True) if is_ours]


def record_failure(
    bench: Workbench, uuid: str, error: SegPipelineError, claim: Claim | None
) -> bool:
    """Finishes a job as failed if another attempt cannot help or none is left; says whether it did.

    An operator's rerun (no claim) that fails leaves an earlier good result as it is.
    """
    if isinstance(error, PictureOnItsWay):
        return False
    if claim is not None and not error.permanent and _has_another_attempt(bench, claim, error):
        if error.counts_as_attempt:
            run_id = bench.line.run.run_id
            write_evidence(bench.store, uuid, Evidence(run_id, "failed", error.code))
        return False
    earlier = bench.inbox.result(uuid)
    if claim is not None or not earlier or earlier["status"] != JobStatus.COMPLETED:
        fail_job(bench.inbox, uuid, error, bench.line.timing(uuid), keep_earlier=claim is not None)
    return True


def _has_another_attempt(bench: Workbench, claim: Claim, error: SegPipelineError) -> bool:
    return claim.attempt < bench.settings.max_attempts or not error.counts_as_attempt


def fail_job(
    inbox: Inbox,
    uuid: str,
    error: SegPipelineError,
    timing: Timing | None = None,
    *,
    keep_earlier: bool = True,
) -> None:
    """Writes the failed job's document, so that its client is told. A job that was deleted stays
    so."""
    try:
        job = inbox.job(uuid)
    except JobNotFound:
        inbox.sweep(uuid)
        return
    now = datetime.now(UTC)
    document = failed_document(job, error, timing or Timing(now, now))
    expires_at = datetime.fromisoformat(document["expires_at"])
    inbox.finish(uuid, document, JobStatus.FAILED, expires_at, keep_earlier=keep_earlier)


def _prepare_source(bench: Workbench, line: Line, uuid: str) -> Metadata:
    with line.timed(uuid, SOURCE):
        job = bench.job(line, uuid)
        line.check(uuid)
        data = _source_bytes(bench, job)
        record = bench.inbox.fetches.record_of(job) if job.image_url else None
        header = bench.identify(data)
    with line.holding(uuid, _decoded_bytes(header)) as piece, line.timed(uuid, SOURCE):
        with _on_record(bench, line, uuid, SOURCE):
            piece.picture, notes = bench.decode(data, header)
        info = _store_source(bench, job, data, header, notes)
    if SEGMENTS not in line.planned:
        line.let_go(uuid)
    address = public_address(job.image_url) if job.image_url else "(upload)"
    facts = record.facts() if record else {}
    return {**info, "seconds": line.seconds(uuid, SOURCE), "image_url": address, **facts}


@contextmanager
def _on_record(bench: Workbench, line: Line, uuid: str, stage: str) -> Iterator[None]:
    """What happens inside may end the worker, and the job is to blame if it does."""
    _record_work(bench, line, uuid, stage)
    try:
        yield
    finally:
        _forget_work(bench, line, uuid)


def _record_work(bench: Workbench, line: Line, uuid: str, stage: str) -> None:
    """Returns when the store knows that the job is worked on, if it is alone in its run."""
    if line.run.may_be_blamed_on_its_job:
        evidence = Evidence(line.run.run_id, stage)
        line.evidence_writer.submit(write_evidence, bench.store, uuid, evidence).result()


def _forget_work(bench: Workbench, line: Line, uuid: str) -> None:
    """Nobody waits for it: the one writer does everything in its order."""
    if line.run.may_be_blamed_on_its_job:
        line.evidence_writer.submit(remove_evidence, bench.store, uuid)


def _let_go(bench: Workbench, line: Line, uuid: str) -> None:
    """Lets go of the job's picture; whoever is the last has done all that it may be blamed for."""
    if line.let_go(uuid):
        _forget_work(bench, line, uuid)


def _source_bytes(bench: Workbench, job: Job) -> bytes:
    """The upload, or what an earlier attempt stored, or what was fetched: a rerun works on the same
    bytes."""
    if job.source_extension is not None:
        return bench.store.get(keys.source(job.uuid, job.source_extension))
    try:
        return bench.stored_source(job.uuid)
    except ObjectNotFound:
        return _fetched_bytes(bench, job)


def _fetched_bytes(bench: Workbench, job: Job) -> bytes:
    """What the job's address gave, or the error that it gave. Raises PictureOnItsWay if neither is
    known."""
    record, is_claimed = (
        bench.inbox.fetches.record_of(job),
        bench.inbox.claim_of(job.uuid) is not None,
    )
    if record and record.state is FetchState.FETCHED:
        with suppress(ObjectNotFound):
            return bench.inbox.fetches.picture(job, record)
    if is_claimed and record and record.state is FetchState.FAILED:
        raise record.error()
    if is_claimed:
        bench.inbox.fetch_first(job)
        raise PictureOnItsWay(job.uuid)
    return _fetched_again(bench, job, record)


def _fetched_again(bench: Workbench, job: Job, record: FetchRecord | None) -> bytes:
    """For an operator: has the picture fetched anew, also where that failed before, and waits for
    it a little."""
    if record is None or record.state is not FetchState.PENDING:
        bench.inbox.fetches.add_again(job)
    deadline = time.monotonic() + RERUN_FETCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(bench.settings.inbox_pause_seconds)
        record = bench.inbox.fetches.record_of(job)
        if record and record.state is FetchState.FETCHED:
            return bench.inbox.fetches.picture(job, record)
        if record and record.state is FetchState.FAILED:
            raise record.error()
    raise PictureOnItsWay(job.uuid)


def _store_source(
    bench: Workbench, job: Job, data: bytes, header: ImageHeader, notes: tuple[str, ...]
) -> Metadata:
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
        **({"notes": " ".join(notes)} if notes else {}),
    }
    bench.store.put(keys.source_info(job.uuid), json.dumps(info).encode())
    if job.image_url is not None:
        bench.inbox.fetches.drop_bytes(job)
    return info


def _decoded_bytes(header: ImageHeader) -> int:
    return header.width * header.height * 3


def _send_for_pictures(bench: Workbench, line: Line, stage: str, uuids: Iterable[str]) -> None:
    """Has those pictures read from the store that the stages before have not left on the line."""
    fetch = _fetch_picture_and_found if stage == CUTOUTS else _fetch_picture
    for uuid in uuids:
        if uuid not in line.on_the_way and (stage, uuid) not in line.outcomes:
            line.send_for(uuid, line.prepare(uuid, fetch, bench, line, uuid))


def _fetch_picture(bench: Workbench, line: Line, uuid: str) -> None:
    data = bench.stored_source(uuid)
    header = bench.identify(data)
    with line.holding(uuid, _decoded_bytes(header)) as piece, _on_record(bench, line, uuid, SOURCE):
        bench.job(line, uuid)
        piece.picture = bench.decode(data, header).pixels


def _fetch_picture_and_found(bench: Workbench, line: Line, uuid: str) -> Found:
    found = bench.stored_found(uuid)
    _fetch_picture(bench, line, uuid)
    line.keep_found(uuid, found)
    return found


def _arrived(line: Line, stage: str) -> dict[str, Any]:
    """The pictures that are there, and what came with them; those that did not come have failed in
    this stage."""
    futures = line.take_arrivals(PICTURES_PER_CALL)
    line.outcomes.update(
        {(stage, uuid): future.result for uuid, future in futures.items() if future.exception()}
    )
    return {uuid: future.result() for uuid, future in futures.items() if not future.exception()}


def _segment_arrivals(
    bench: Workbench, line: Line, until: Callable[[], bool] = lambda: False
) -> None:
    """Calls the models for pictures as they arrive, for as many at once as are there."""
    while line.on_the_way:
        line.wait_for_arrivals()
        if until():
            return
        groups: dict[_Asked, list[str]] = defaultdict(list)
        for uuid in _still_wanted(bench, line, _arrived(line, SEGMENTS)):
            groups[_Asked.of(bench.job(line, uuid))].append(uuid)
        for asked, group in groups.items():
            _segment(bench, line, asked, group)


def _still_wanted(bench: Workbench, line: Line, uuids: Iterable[str]) -> Iterator[str]:
    """Those that were not cancelled on their way; the others have failed in this stage."""
    for uuid in uuids:
        try:
            line.check(uuid)
        except JobCancelled as error:
            line.outcomes[SEGMENTS, uuid] = _raising(error)
            _let_go(bench, line, uuid)
        else:
            yield uuid


class _Asked(NamedTuple):
    """What jobs must have in common to share a call of a model."""

    model: str
    parameters: tuple[tuple[str, int | float], ...]

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.model, tuple(sorted(job.parameters.items())))


def _segment(bench: Workbench, line: Line, asked: _Asked, uuids: Sequence[str]) -> None:
    """Segments the pictures and sends them on; where a call fails for several, it is made for
    each."""
    try:
        founds, notes = _call_model(bench, line, asked, uuids)
    except Exception as error:
        if isinstance(error, DeviceBroken):
            bench.broken = str(error)
        _segment_each(bench, line, asked, uuids, error)
    else:
        for uuid, found in founds.items():
            _send_on(bench, line, uuid, found, notes)


def _segment_each(
    bench: Workbench, line: Line, asked: _Asked, uuids: Sequence[str], error: Exception
) -> None:
    if len(uuids) == 1:
        line.outcomes[SEGMENTS, uuids[0]] = _raising(error)
        _let_go(bench, line, uuids[0])
        return
    for uuid in uuids:
        _segment(bench, line, asked, [uuid])


def _call_model(
    bench: Workbench, line: Line, asked: _Asked, uuids: Sequence[str]
) -> tuple[dict[str, Found], Notes]:
    pictures = {
        uuid: picture for uuid in uuids if (picture := line.piece(uuid).picture) is not None
    }
    with bench.models.borrow(asked.model) as segmenter:
        for uuid in pictures:
            _record_work(bench, line, uuid, SEGMENTS)
        begin = time.perf_counter()
        answers = segmenter.segment(list(pictures.values()), dict(asked.parameters))
        seconds = (time.perf_counter() - begin) / len(pictures)
        weights_sha256, notes = segmenter.weights_sha256, dict(segmenter.notes)
    founds = {}
    for (uuid, picture), segments in zip(pictures.items(), answers, strict=True):
        line.add_seconds(uuid, SEGMENTS, seconds)
        metrics.MODEL_SECONDS.labels(asked.model).observe(seconds)
        kept = surest(segments, bench.settings.max_segments)
        founds[uuid] = _found(asked.model, weights_sha256, picture, seconds, kept)
        line.piece(uuid).left_out = len(segments) - len(kept)
    return founds, notes


def _found(
    model: str, weights_sha256: str, picture: RgbImage, seconds: float, segments: list[Segment]
) -> Found:
    height, width = picture.shape[:2]
    return Found(model, weights_sha256, (width, height), round(seconds, 4), order_by_area(segments))


def _send_on(bench: Workbench, line: Line, uuid: str, found: Found, notes: Notes) -> None:
    """Has the encoders write what was found and, if the run goes so far, cut it out."""
    line.keep_found(uuid, found)
    line.hold_more(uuid, mask_bytes(found))
    line.outcomes[SEGMENTS, uuid] = line.encode(
        uuid, _store_segments, bench, line, uuid, found, notes
    ).result
    if CUTOUTS in line.planned:
        _cut(bench, line, uuid, found)
    else:
        _let_go(bench, line, uuid)


def _store_segments(
    bench: Workbench, line: Line, uuid: str, found: Found, notes: Notes
) -> Metadata:
    """Masks first: the document that counts them is never there without them."""
    with line.timed(uuid, "masks"):
        masks = dict(_masks(line, uuid, found))
        with line.writing(uuid):
            written = bench.put_all(masks)
            bench.store.put(keys.segments(uuid), json.dumps(segments_document(found)).encode())
    return {
        "segments": len(found.segments),
        "labels": ", ".join(sorted({segment.label for segment in found.segments if segment.label})),
        "model": found.model,
        "weights_sha256": found.weights_sha256,
        "model_seconds": found.seconds,
        "mask_seconds": line.seconds(uuid, "masks"),
        "mask_bytes": written,
        **({"segments_left_out": line.piece(uuid).left_out} if line.piece(uuid).left_out else {}),
        **notes,
    }


def _masks(line: Line, uuid: str, found: Found) -> Iterator[tuple[str, bytes]]:
    for index, segment in enumerate(found.segments):
        line.check(uuid)
        yield keys.mask(uuid, index), encode_mask_png(segment.mask)


def _cut(bench: Workbench, line: Line, uuid: str, found: Found) -> None:
    """Has the encoders write the job's pictures, several at once; its own goes when the last of
    them is done."""
    job, picture = bench.job(line, uuid), line.piece(uuid).picture
    assert picture is not None
    try:
        check_output(job, found.segments, bench.settings.max_output_pixels)
    except OutputTooLarge as error:
        line.outcomes[CUTOUTS, uuid] = _raising(error)
        _let_go(bench, line, uuid)
        return
    parts = _pictures_of(line, job, picture, found)
    line.share(uuid, len(parts))
    written = [line.encode(uuid, _write_part, bench, line, uuid, part) for part in parts]
    line.outcomes[CUTOUTS, uuid] = partial(
        _cutouts_metadata, line, job, len(found.segments), written
    )


Part = Callable[[], dict[str, bytes]]


def _pictures_of(line: Line, job: Job, picture: RgbImage, found: Found) -> list[Part]:
    """The files of the stage by key, in parts that each take about as long."""
    names = [
        keys.crop(job.uuid, crop_name(job.uuid, index)) for index in range(len(found.segments))
    ]
    crops = [*zip(names, found.segments, strict=True)]
    chunks = [
        crops[start : start + CROPS_PER_PART] for start in range(0, len(crops), CROPS_PER_PART)
    ]
    return [
        lambda: {keys.original(job.uuid): encode_original(picture)},
        lambda: {keys.overlay(job.uuid): overlay(picture, found.segments)},
        *(partial(_crops, line, job, picture, chunk) for chunk in chunks),
    ]


def _crops(
    line: Line, job: Job, picture: RgbImage, crops: Iterable[tuple[str, Segment]]
) -> dict[str, bytes]:
    files = {}
    for name, segment in crops:
        line.check(job.uuid)
        files[name] = cut_out(picture, segment.mask, job.resize)
    return files


def _write_part(bench: Workbench, line: Line, uuid: str, part: Part) -> int:
    try:
        with line.timed(uuid, CUTOUTS):
            line.check(uuid)
            files = part()
            with line.writing(uuid):
                return bench.put_all(files)
    finally:
        _let_go(bench, line, uuid)


def _cutouts_metadata(
    line: Line, job: Job, cutouts: int, written: Iterable[Future[int]]
) -> Metadata:
    return {
        "cutouts": cutouts,
        "bytes": sum(part.result() for part in written),
        "resize": job.resize or 0,
        "seconds": line.seconds(job.uuid, CUTOUTS),
        "overlay_key": keys.overlay(job.uuid),
    }


def _publish_result(bench: Workbench, line: Line, uuid: str, awaited: set[str]) -> Metadata:
    found, job = line.piece(uuid).found or bench.stored_found(uuid), bench.job(line, uuid)
    document = result_document(job, found, line.timing(uuid))
    expires_at, is_ours = (
        datetime.fromisoformat(document["expires_at"]),
        line.run.run_key is not None,
    )
    if bench.inbox.finish(uuid, document, JobStatus.COMPLETED, expires_at, keep_earlier=is_ours):
        _remove_surplus(bench, uuid, document)
    line.piece(uuid).published = True
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


def _remove_surplus(bench: Workbench, uuid: str, document: Document) -> None:
    """Removes the masks and cut-outs that only an earlier attempt found. What cannot be removed
    goes with the job."""
    try:
        stored = {info.key for info in bench.store.list(keys.asset(uuid, ""))}
        surplus = {
            key for key in stored if key.startswith(keys.of_segments(uuid))
        } - files_of_segments(document)
        result = bench.inbox.result(uuid) if surplus else None  # another run's by now, perhaps
        if result and result["status"] == JobStatus.COMPLETED:
            surplus -= files_of_segments(result)
            bench.store.at_once([partial(bench.store.delete, key) for key in sorted(surplus)])
    except StoreError as error:
        logger.warning("job %s: files of an earlier attempt stay until it expires: %s", uuid, error)


def _record_callback(bench: Workbench, line: Line, uuid: str) -> Metadata:
    if bench.settings.app_server_url is None:
        raise NothingToTell("APP_SERVER_URL is not set: there is nobody to tell.")
    if not line.piece(uuid).published:
        bench.inbox.outbox.replay(uuid)
    return {}


def _seconds_between(begin: datetime, end: str) -> float:
    return round((datetime.fromisoformat(end) - begin).total_seconds(), 3)


def _each(
    bench: Workbench, uuids: Sequence[str], work: Callable[[Line, str], Metadata]
) -> StageReport:
    """Does the work for each job, side by side."""
    with bench.at_work() as line:
        futures = {uuid: line.prepare(uuid, work, line, uuid) for uuid in uuids}
        return _report({uuid: future.result for uuid, future in futures.items()})


def _collect(line: Line, stage: str, uuids: Iterable[str]) -> StageReport:
    """What became of the jobs in a stage; the line forgets it."""
    return _report({uuid: line.outcomes.pop((stage, uuid)) for uuid in uuids})


def _report(outcomes: Mapping[str, Outcome]) -> StageReport:
    report = StageReport()
    for uuid, outcome in outcomes.items():
        with _errors_into(report, uuid):
            report.metadata[uuid] = outcome()
    return report


def _raising(error: Exception) -> Outcome:
    failed: Future[Metadata] = Future()
    failed.set_exception(error)
    return failed.result


@contextmanager
def _errors_into(report: StageReport, uuid: str) -> Iterator[None]:
    try:
        yield
    except SegPipelineError as error:
        report.errors[uuid] = error
    except Exception as error:
        with about(uuid):
            logger.exception("job %s failed in a way nobody foresaw", uuid)
        report.errors[uuid] = UnexpectedError(
            f"An unexpected {type(error).__name__} occurred: {without_folders(str(error))}"
        )
