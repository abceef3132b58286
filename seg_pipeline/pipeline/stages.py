"""The story of a job: source → segments → cut-outs → result → callback.

Each stage stores what the next one reads. It takes the jobs of one run, and reports which passed
and which failed. One bad picture never stops the others.

A stage may begin for some pictures while the stage before it still waits for others. The model
takes pictures as they arrive, and its output is written meanwhile (see `run_context`). Each stage
then collects its own outcomes.
"""

import hashlib
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
from seg_pipeline.domain import Job, JobStatus, RgbImage, Segment, batch_of
from seg_pipeline.errors import (
    DeviceBroken,
    ImageError,
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
from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.decoder_pool import ImageDecoder, shared_decoders
from seg_pipeline.imaging.images import Decoded, ImageHeader, encode_original
from seg_pipeline.imaging.masks import decode_mask_png, encode_mask_png, order_by_area
from seg_pipeline.imaging.overlays import overlay
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.evidence import Evidence, remove_evidence, write_evidence
from seg_pipeline.jobs.fetches import FetchRecord, FetchState
from seg_pipeline.jobs.giving_way import is_to_give_way
from seg_pipeline.jobs.kept_pictures import SourceInfo
from seg_pipeline.jobs.model_output import ModelOutput, StoredOutput
from seg_pipeline.jobs.records import Result, Timing, completed_result, failed_result
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.pipeline.output_budget import check_output, surest
from seg_pipeline.pipeline.progress_writer import ProgressWriter
from seg_pipeline.pipeline.run_context import (
    ENCODERS,
    LeftToAnotherRun,
    Outcome,
    RunContext,
    make_encoders,
    mask_bytes,
)
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.prompts import Values, check_inside
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.progress import reported_to
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import read, to_document, write
from seg_pipeline.telemetry import metrics
from seg_pipeline.telemetry.activity import ACTIVITY
from seg_pipeline.telemetry.logs import about

logger = logging.getLogger(__name__)

Metadata = dict[str, Any]

PICTURES_IN_MEMORY_BYTES = 512 * 2**20
PICTURES_PER_CALL = 8
CROPS_PER_PART = 8

CALL_SECONDS = 0.3
"""How long a call of a model may take in a run that may give way, which it does between calls."""

SLOWEST_FADES = 0.8
"""How much of the slowest call's time still counts at the next call."""

ENCODINGS_AHEAD = 8 * ENCODERS
"""Pieces of work that may wait for encoders in such a run. A picture has some five."""

RERUN_FETCH_SECONDS = 10.0
"""How long an operator's rerun waits for its picture to be fetched. Other runs never wait."""


@dataclass
class StageReport:
    """What a stage did: metadata of each job that passed, and the error of each that failed.

    `at_their_end` holds the jobs that passed and need no further stage, `left` those that are left
    to another run.
    """

    metadata: dict[str, Metadata] = field(default_factory=dict)
    errors: dict[str, SegPipelineError] = field(default_factory=dict)
    at_their_end: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)

    @property
    def passed(self) -> list[str]:
        """The jobs that go on to the next stage."""
        return [uuid for uuid in self.metadata if uuid not in self.at_their_end]


@dataclass
class StageContext:
    """What the stages work with. It outlives the runs, of which there is one at a time."""

    settings: Settings
    store: Store
    models: WarmModels
    broken: str | None = None
    """Why this process can serve no further job; None while it can."""
    picture_seconds: float = CALL_SECONDS
    """What a picture took in the slowest of the last calls of a model."""
    decoder: ImageDecoder = field(default_factory=shared_decoders)

    def __post_init__(self) -> None:
        self.repository = JobRepository(self.store)
        self.progress = ProgressWriter(self.store)
        self._encoders = make_encoders()
        self._run: RunContext | None = None

    @property
    def run(self) -> RunContext:
        """The context of the current run, made when it is first needed."""
        if self._run is None:
            self._run = RunContext(PICTURES_IN_MEMORY_BYTES, self._encoders)
        return self._run

    @property
    def has_begun(self) -> bool:
        """Whether the current run reached its first stage."""
        return self._run is not None

    @contextmanager
    def one_run(self) -> Iterator[None]:
        """Surrounds one run.

        At its end no memory of the run is held, and nothing of it is still written.
        """
        try:
            yield
        finally:
            run, self._run = self._run, None
            if run:
                run.end()
            self.progress.end_all()

    @contextmanager
    def at_work(self) -> Iterator[RunContext]:
        """The run context, for one stage.

        An exception that leaves the stage stops the run context. The next stage gets a new one.
        """
        run = self.run
        try:
            yield run
        except BaseException:
            self._run = None
            run.stop()
            raise

    def look_for_cancels(self, uuids: Collection[str]) -> bool:
        """Reads which of the jobs were cancelled, and drops them. Returns whether all were.

        Raises StoreError.
        """
        run = self._run
        if run is None or not uuids:
            return False
        run.cancelled = self.repository.cancels.requested(uuids)
        return run.cancelled == set(uuids)

    def identify(self, data: bytes) -> ImageHeader:
        """The picture's header; raises ImageError."""
        return self.decoder.identify(data, self.settings.max_image_pixels)

    def decode(self, data: bytes, header: ImageHeader) -> Decoded:
        """The picture's pixels; raises ImageError."""
        return self.decoder.read(data, self.settings.max_image_pixels, header)

    def job(self, run: RunContext, uuid: str) -> Job:
        """The job as requested, read once a run; raises JobNotFound."""
        slot = run.slot(uuid)
        slot.job = slot.job or self.repository.job(uuid)
        return slot.job

    def stored_source(self, uuid: str) -> bytes:
        """The picture's bytes as `prepare_sources` stored them; raises ObjectNotFound."""
        info = read(SourceInfo, self.store.get(keys.source_info(uuid)))
        return self.store.get(keys.source(uuid, info.extension))

    def stored_output(self, uuid: str) -> ModelOutput:
        """The job's segments as `find_segments` stored them; raises ObjectNotFound."""
        stored = read(StoredOutput, self.store.get(keys.segments(uuid)))
        names = [keys.mask(uuid, index) for index in range(len(stored.segments))]
        pngs = self.store.at_once([partial(self.store.get, name) for name in names])
        return stored.with_masks(
            [decode_mask_png(png, self.settings.max_image_pixels) for png in pngs]
        )

    def put_all(self, files: Mapping[str, bytes]) -> int:
        """Stores the files side by side. Returns their bytes in all."""
        self.store.at_once([partial(self.store.put, key, data) for key, data in files.items()])
        return sum(map(len, files.values()))


def prepare_sources(context: StageContext, uuids: Sequence[str]) -> StageReport:
    """Reads each picture, checks that it decodes, and stores it as received.

    The model begins with the pictures that have arrived.
    """
    for uuid in uuids:
        context.progress.note(uuid, StageName.SOURCE_IMAGE)
    with context.at_work() as run:
        sources = {uuid: run.prepare(uuid, _prepare_source, context, run, uuid) for uuid in uuids}
        if StageName.SEGMENTS in run.planned:
            for uuid, source in sources.items():
                run.send_for(uuid, source)
            _segment_arrivals(
                context, run, until=lambda: all(source.done() for source in sources.values())
            )
        return _report({uuid: source.result for uuid, source in sources.items()})


def find_segments(context: StageContext, uuids: Sequence[str]) -> StageReport:
    """Runs the models, and stores masks and scores.

    The masks of one picture are written while the next is segmented.
    """
    with context.at_work() as run:
        _send_for_pictures(context, run, StageName.SEGMENTS, uuids)
        _segment_arrivals(context, run)
        return _collect(run, StageName.SEGMENTS, uuids)


def cut_segments(context: StageContext, uuids: Sequence[str]) -> StageReport:
    """Stores the picture as WEBP, a cut-out of each segment, and the overlay."""
    with context.at_work() as run:
        _send_for_pictures(context, run, StageName.CUTOUTS, uuids)
        while run.on_the_way:
            run.wait_for_arrivals()
            for uuid, output in _arrived(run, StageName.CUTOUTS).items():
                _cut(context, run, uuid, output)
        return _collect(run, StageName.CUTOUTS, uuids)


def publish_results(context: StageContext, uuids: Sequence[str]) -> StageReport:
    """Writes each job's result, which finishes the job.

    From then on clients get their answer. Only the jobs that the app server or a webhook waits for
    go on.
    """
    awaited: set[str] = set()
    report = _each(context, uuids, lambda run, uuid: _publish_result(context, run, uuid, awaited))
    report.at_their_end = set(uuids) - awaited
    return report


def record_callbacks(context: StageContext, uuids: Sequence[str]) -> StageReport:
    """Records that the app server, or a webhook, is to be told of each job. A relay tells it.

    A result of this run was recorded when it was published. An older one is told once more.
    """
    return _each(context, uuids, lambda run, uuid: _record_callback(context, run, uuid))


def jobs_of_this_run(context: StageContext, uuids: Sequence[str]) -> list[str]:
    """The jobs of the run that still wait for it. Those that were cancelled fail its first stage.

    A late run gets none that another run has claimed or finished. An operator's run gets all.
    """
    run_key = context.run.identity.run_key
    if run_key is None:
        return list(uuids)
    calls: list[Callable[[], Any]] = [
        partial(context.repository.cancels.requested, uuids),
        *(partial(context.repository.claims.is_claimed_for, uuid, run_key) for uuid in uuids),
    ]
    context.run.cancelled, *claimed = context.store.at_once(calls)
    return [uuid for uuid, is_ours in zip(uuids, claimed, strict=True) if is_ours]


def record_failure(
    context: StageContext, uuid: str, error: SegPipelineError, claim: Claim | None
) -> bool:
    """Finishes a job as failed if no further attempt can help or none is left.

    Returns whether it did. An operator's rerun that fails leaves an earlier good result as it is. A
    run that was requested leaves any earlier end, such as a cancel's.
    """
    if isinstance(error, PictureOnItsWay):
        return False
    if claim is not None and not error.permanent and _has_another_attempt(context, claim, error):
        if error.counts_as_attempt:
            run_id = context.run.identity.run_id
            write_evidence(context.store, uuid, Evidence(run_id, "failed", error.code))
        return False
    context.progress.end(uuid)
    earlier = context.repository.result(uuid)
    is_operators = claim is None and context.run.identity.run_key is None
    if not (is_operators and earlier and earlier.status is JobStatus.COMPLETED):
        timing = context.run.timing(uuid)
        fail_job(context.repository, uuid, error, timing, keep_earlier=not is_operators)
    return True


def _has_another_attempt(context: StageContext, claim: Claim, error: SegPipelineError) -> bool:
    return claim.attempt < context.settings.max_attempts or not error.counts_as_attempt


def record_stall(context: StageContext, uuids: Sequence[str]) -> None:
    """Notes that the run made no progress with its only job, which is to blame, before the process
    is killed.

    Raises StoreError. While a model loads, nobody is to blame.
    """
    identity = context.run.identity
    with context.models.not_loading() as free:
        if free and identity.may_be_blamed_on_its_job:
            write_evidence(context.store, uuids[0], Evidence(identity.run_id, "stalled"))


def fail_job(
    repository: JobRepository,
    uuid: str,
    error: SegPipelineError,
    timing: Timing | None = None,
    *,
    keep_earlier: bool = True,
) -> None:
    """Writes the failed job's result, so that its client is told. A deleted job stays deleted."""
    try:
        job = repository.job(uuid)
    except JobNotFound:
        repository.removal.remove_leftovers(uuid)
        return
    now = datetime.now(UTC)
    result = failed_result(job, error, timing or Timing(now, now))
    repository.results.finish(result, keep_earlier=keep_earlier)


def _prepare_source(context: StageContext, run: RunContext, uuid: str) -> Metadata:
    with run.timed(uuid, StageName.SOURCE_IMAGE):
        job = context.job(run, uuid)
        run.check(uuid)
        data = _source_bytes(context, job)
        record = context.repository.fetches.record_of(job) if job.image_url else None
        with _refused_if_bad(context, job, record):
            header = context.identify(data)
    with run.holding(uuid, _decoded_bytes(header)) as slot, run.timed(uuid, StageName.SOURCE_IMAGE):
        with (
            _on_record(context, run, uuid, StageName.SOURCE_IMAGE),
            _refused_if_bad(context, job, record),
        ):
            slot.picture, notes = context.decode(data, header)
        check_inside(job.parameters, slot.picture.shape[1::-1])
        info = _store_source(context, job, data, header, notes)
    if StageName.SEGMENTS not in run.planned:
        run.release(uuid)
    address = public_address(job.image_url) if job.image_url else "(upload)"
    facts = record.facts() if record else {}
    return {
        **to_document(info),
        "seconds": run.seconds(uuid, StageName.SOURCE_IMAGE),
        "image_url": address,
        **facts,
    }


@contextmanager
def _refused_if_bad(context: StageContext, job: Job, record: FetchRecord | None) -> Iterator[None]:
    """Notes that what was fetched is no picture."""
    try:
        yield
    except ImageError as error:
        if record and record.state is FetchState.FETCHED:
            context.repository.fetches.refuse(job, record, error)
        raise


@contextmanager
def _on_record(
    context: StageContext, run: RunContext, uuid: str, stage: StageName
) -> Iterator[None]:
    """Surrounds work that may end the worker. If it does, the job is to blame."""
    _record_work(context, run, uuid, stage)
    try:
        yield
    finally:
        _forget_work(context, run, uuid)


def _record_work(context: StageContext, run: RunContext, uuid: str, stage: StageName) -> None:
    """Returns once the store knows that the job is worked on, if the job is alone in its run."""
    if run.identity.may_be_blamed_on_its_job:
        evidence = Evidence(run.identity.run_id, stage)
        run.evidence_writer.submit(write_evidence, context.store, uuid, evidence).result()


def _forget_work(context: StageContext, run: RunContext, uuid: str) -> None:
    """Returns at once: the single evidence writer works in order."""
    if run.identity.may_be_blamed_on_its_job:
        run.evidence_writer.submit(remove_evidence, context.store, uuid)


def _release(context: StageContext, run: RunContext, uuid: str) -> None:
    """Releases the job's picture.

    After its last user nothing is left that the job may be blamed for.
    """
    if run.release(uuid):
        _forget_work(context, run, uuid)


def _source_bytes(context: StageContext, job: Job) -> bytes:
    """The upload, else the bytes that an earlier attempt stored, else the fetched ones.

    So a rerun works on the same bytes.
    """
    if job.source_extension is not None:
        return context.store.get(keys.source(job.uuid, job.source_extension))
    try:
        return context.stored_source(job.uuid)
    except ObjectNotFound:
        return _fetched_bytes(context, job)


def _fetched_bytes(context: StageContext, job: Job) -> bytes:
    """The bytes that the fetcher got for the job, or its error.

    Raises PictureOnItsWay before either.
    """
    record, is_claimed = (
        context.repository.fetches.record_of(job),
        context.repository.claims.claim_of(job.uuid) is not None,
    )
    if record and record.state is FetchState.FETCHED:
        with suppress(ObjectNotFound):
            return context.repository.fetches.picture(job, record)
    if is_claimed and record and record.state is FetchState.FAILED:
        raise record.error()
    if is_claimed:
        context.repository.claims.fetch_first(job)
        raise PictureOnItsWay(job.uuid)
    return _fetched_again(context, job, record)


def _fetched_again(context: StageContext, job: Job, record: FetchRecord | None) -> bytes:
    """An operator's rerun: fetches the picture again, also after a failure, and waits a little."""
    if record is None or record.state is not FetchState.PENDING:
        context.repository.fetches.add_again(job)
    deadline = time.monotonic() + RERUN_FETCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(context.settings.inbox_pause_seconds)
        record = context.repository.fetches.record_of(job)
        if record and record.state is FetchState.FETCHED:
            return context.repository.fetches.picture(job, record)
        if record and record.state is FetchState.FAILED:
            raise record.error()
    raise PictureOnItsWay(job.uuid)


def _store_source(
    context: StageContext, job: Job, data: bytes, header: ImageHeader, notes: tuple[str, ...]
) -> SourceInfo:
    extension = job.source_extension or header.extension
    if job.image_url is not None:
        context.store.put(keys.source(job.uuid, extension), data)
    info = SourceInfo(
        extension=extension,
        format=header.format,
        width=header.width,
        height=header.height,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        notes=" ".join(notes) or None,
    )
    context.store.put(keys.source_info(job.uuid), write(info))
    if job.image_url is not None:
        context.repository.fetches.drop_bytes(job)
    return info


def _decoded_bytes(header: ImageHeader) -> int:
    return header.width * header.height * 3


def _send_for_pictures(
    context: StageContext, run: RunContext, stage: StageName, uuids: Iterable[str]
) -> None:
    """Begins to read the pictures that the earlier stages did not leave in memory."""
    fetch = _fetch_picture_and_output if stage == StageName.CUTOUTS else _fetch_picture
    for uuid in uuids:
        if uuid not in run.on_the_way and not run.has_outcome(stage, uuid):
            run.send_for(uuid, run.prepare(uuid, fetch, context, run, uuid))


def _fetch_picture(context: StageContext, run: RunContext, uuid: str) -> None:
    data = context.stored_source(uuid)
    header = context.identify(data)
    with (
        run.holding(uuid, _decoded_bytes(header)) as slot,
        _on_record(context, run, uuid, StageName.SOURCE_IMAGE),
    ):
        context.job(run, uuid)
        slot.picture = context.decode(data, header).pixels


def _fetch_picture_and_output(context: StageContext, run: RunContext, uuid: str) -> ModelOutput:
    output = context.stored_output(uuid)
    _fetch_picture(context, run, uuid)
    run.keep_output(uuid, output)
    return output


def _arrived(run: RunContext, stage: StageName, limit: int = PICTURES_PER_CALL) -> dict[str, Any]:
    """The pictures that have arrived, with what came beside them.

    Those that failed fail this stage.
    """
    futures = run.take_arrivals(limit)
    for uuid, future in futures.items():
        if future.exception():
            run.record(stage, uuid, future.result)
    return {uuid: future.result() for uuid, future in futures.items() if not future.exception()}


def _segment_arrivals(
    context: StageContext, run: RunContext, until: Callable[[], bool] = lambda: False
) -> None:
    """Calls the models for pictures as they arrive, with as many at once as are there."""
    while run.on_the_way:
        run.wait_for_arrivals()
        if until():
            return
        _give_way_if_asked(context, run)
        groups: dict[SegmentationCall, list[str]] = defaultdict(list)
        arrived = _arrived(run, StageName.SEGMENTS, _pictures_per_call(context, run))
        for uuid in _still_wanted(context, run, arrived):
            groups[SegmentationCall.of(context.job(run, uuid))].append(uuid)
        for call, group in groups.items():
            _segment(context, run, call, group)


def _pictures_per_call(context: StageContext, run: RunContext) -> int:
    """How many pictures the next call of a model takes, such that a run can give way soon.

    What the encoders still have to do is done before the run ends, so that is kept short, too.
    """
    if not run.identity.may_give_way:
        return PICTURES_PER_CALL
    run.wait_for_encoders(ENCODINGS_AHEAD)
    return max(1, min(PICTURES_PER_CALL, int(CALL_SECONDS / context.picture_seconds)))


def _give_way_if_asked(context: StageContext, run: RunContext) -> None:
    """Leaves the other pictures to a later run, if a run of an earlier lane waits.

    Each run calls a model once before. So its jobs go on, however many others come.
    """
    if not (run.identity.may_give_way and run.has_called_a_model) or run.given_back:
        return
    with suppress(StoreError):
        if is_to_give_way(context.store, run.identity.run_id):
            logger.info("the run gives way: %d jobs wait for another", len(run.on_the_way))
            run.give_way()


def _still_wanted(context: StageContext, run: RunContext, uuids: Iterable[str]) -> Iterator[str]:
    """The jobs that this run is to go on with. The others fail this stage."""
    for uuid in uuids:
        try:
            run.check(uuid)
        except (JobCancelled, LeftToAnotherRun) as error:
            run.record(StageName.SEGMENTS, uuid, _raising(error))
            _release(context, run, uuid)
        else:
            yield uuid


class SegmentationCall(NamedTuple):
    """What jobs must have in common to share a call of a model."""

    model: str
    parameters: tuple[tuple[str, Values], ...]

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.model, tuple(sorted(job.parameters.items())))


def _segment(
    context: StageContext, run: RunContext, call: SegmentationCall, uuids: Sequence[str]
) -> None:
    """Segments the pictures in one call. If it fails for several, each gets a call of its own."""
    try:
        outputs, notes = _call_model(context, run, call, uuids)
    except Exception as error:
        if isinstance(error, DeviceBroken):
            context.broken = str(error)
        _segment_each(context, run, call, uuids, error)
    else:
        for uuid, output in outputs.items():
            _send_on(context, run, uuid, output, notes)


def _segment_each(
    context: StageContext,
    run: RunContext,
    call: SegmentationCall,
    uuids: Sequence[str],
    error: Exception,
) -> None:
    if len(uuids) == 1:
        run.record(StageName.SEGMENTS, uuids[0], _raising(error))
        _release(context, run, uuids[0])
        return
    for uuid in uuids:
        _segment(context, run, call, [uuid])


def _call_model(
    context: StageContext, run: RunContext, call: SegmentationCall, uuids: Sequence[str]
) -> tuple[dict[str, ModelOutput], Notes]:
    pictures = {uuid: picture for uuid in uuids if (picture := run.slot(uuid).picture) is not None}
    with (
        context.models.borrow(call.model) as segmenter,
        reported_to(partial(_note_points, context, run, pictures)),
    ):
        for uuid in pictures:
            run.check(uuid)
            _record_work(context, run, uuid, StageName.SEGMENTS)
            context.progress.note(uuid, StageName.SEGMENTS)
        begin = time.perf_counter()
        segment = partial(segmenter.segment, list(pictures.values()), dict(call.parameters))
        answers = context.models.with_more_memory(call.model, segment)
        seconds = (time.perf_counter() - begin) / len(pictures)
        weights_sha256, notes = segmenter.weights_sha256, dict(segmenter.notes)
    run.has_called_a_model = True
    context.picture_seconds = max(seconds, SLOWEST_FADES * context.picture_seconds)
    outputs = {}
    for (uuid, picture), segments in zip(pictures.items(), answers, strict=True):
        run.add_seconds(uuid, StageName.SEGMENTS, seconds)
        metrics.MODEL_SECONDS.labels(call.model).observe(seconds)
        kept = surest(segments, context.settings.max_segments)
        outputs[uuid] = _model_output(call.model, weights_sha256, picture, seconds, kept)
        run.slot(uuid).left_out = len(segments) - len(kept)
    return outputs, notes


def _note_points(
    context: StageContext,
    run: RunContext,
    pictures: Mapping[str, RgbImage],
    image: RgbImage,
    done: int,
    total: int,
) -> None:
    """Notes how far the model is with a picture. Raises JobCancelled.

    A tile may be of any of them.
    """
    ACTIVITY.mark()
    whole = [uuid for uuid, picture in pictures.items() if image is picture]
    for uuid in whole:
        context.progress.note(uuid, StageName.SEGMENTS, done, total)
    for uuid in whole or pictures:
        run.check(uuid)


def _model_output(
    model: str, weights_sha256: str, picture: RgbImage, seconds: float, segments: list[Segment]
) -> ModelOutput:
    height, width = picture.shape[:2]
    return ModelOutput(
        model, weights_sha256, (width, height), round(seconds, 4), order_by_area(segments)
    )


def _send_on(
    context: StageContext, run: RunContext, uuid: str, output: ModelOutput, notes: Notes
) -> None:
    """Has encoders write the model's output and, if the run has that stage, the cut-outs."""
    run.keep_output(uuid, output)
    run.hold_more(uuid, mask_bytes(output))
    stored = run.encode(uuid, _store_segments, context, run, uuid, output, notes)
    run.record(StageName.SEGMENTS, uuid, stored.result)
    if StageName.CUTOUTS in run.planned:
        _cut(context, run, uuid, output)
    else:
        _release(context, run, uuid)


def _store_segments(
    context: StageContext, run: RunContext, uuid: str, output: ModelOutput, notes: Notes
) -> Metadata:
    """Stores the masks first: the document that counts them never exists without them."""
    with run.timed(uuid, "masks"):
        masks = dict(_masks(run, uuid, output))
        with run.writing(uuid):
            written = context.put_all(masks)
            context.store.put(keys.segments(uuid), write(StoredOutput.of(output)))
    return {
        "segments": len(output.segments),
        "labels": ", ".join(
            sorted({segment.label for segment in output.segments if segment.label})
        ),
        "model": output.model,
        "weights_sha256": output.weights_sha256,
        "model_seconds": output.seconds,
        f"seconds_with_{output.model}": output.seconds,
        "mask_seconds": run.seconds(uuid, "masks"),
        "mask_bytes": written,
        **({"segments_left_out": run.slot(uuid).left_out} if run.slot(uuid).left_out else {}),
        **notes,
    }


def _masks(run: RunContext, uuid: str, output: ModelOutput) -> Iterator[tuple[str, bytes]]:
    for index, segment in enumerate(output.segments):
        run.check(uuid)
        yield keys.mask(uuid, index), encode_mask_png(segment.mask)


def _cut(context: StageContext, run: RunContext, uuid: str, output: ModelOutput) -> None:
    """Has several encoders write the job's pictures. The last of them releases the decoded one."""
    job, picture = context.job(run, uuid), run.slot(uuid).picture
    assert picture is not None
    try:
        check_output(job, output.segments, context.settings.max_output_pixels)
    except OutputTooLarge as error:
        run.record(StageName.CUTOUTS, uuid, _raising(error))
        _release(context, run, uuid)
        return
    context.progress.note(uuid, StageName.CUTOUTS)
    parts = _pictures_of(run, job, picture, output)
    run.retain(uuid, len(parts))
    written = [run.encode(uuid, _write_part, context, run, uuid, part) for part in parts]
    metadata = partial(_cutouts_metadata, run, job, len(output.segments), written)
    run.record(StageName.CUTOUTS, uuid, metadata)


FilesOfCrops = Callable[[], dict[str, bytes]]


def _pictures_of(
    run: RunContext, job: Job, picture: RgbImage, output: ModelOutput
) -> list[FilesOfCrops]:
    """The stage's files by key, in parts that each take about as long."""
    names = [keys.crop(job.uuid, index) for index in range(len(output.segments))]
    crops = [*zip(names, output.segments, strict=True)]
    chunks = [
        crops[start : start + CROPS_PER_PART] for start in range(0, len(crops), CROPS_PER_PART)
    ]
    return [
        lambda: {keys.original(job.uuid): encode_original(picture)},
        partial(_overlay, job.uuid, picture, output),
        *(partial(_crops, run, job, picture, chunk) for chunk in chunks),
    ]


def _overlay(uuid: str, picture: RgbImage, output: ModelOutput) -> dict[str, bytes]:
    drawn = overlay(picture, output.segments)
    return {keys.overlay(uuid): drawn.picture, keys.thumbnail(uuid): drawn.thumbnail}


def _crops(
    run: RunContext, job: Job, picture: RgbImage, crops: Iterable[tuple[str, Segment]]
) -> dict[str, bytes]:
    files = {}
    for name, segment in crops:
        run.check(job.uuid)
        files[name] = cut_out(picture, segment.mask, job.resize)
    return files


def _write_part(context: StageContext, run: RunContext, uuid: str, part: FilesOfCrops) -> int:
    try:
        with run.timed(uuid, StageName.CUTOUTS):
            run.check(uuid)
            files = part()
            with run.writing(uuid):
                return context.put_all(files)
    finally:
        _release(context, run, uuid)


def _cutouts_metadata(
    run: RunContext, job: Job, cutouts: int, written: Iterable[Future[int]]
) -> Metadata:
    return {
        "cutouts": cutouts,
        "bytes": sum(part.result() for part in written),
        "resize": job.resize or 0,
        "seconds": run.seconds(job.uuid, StageName.CUTOUTS),
        "overlay_key": keys.overlay(job.uuid),
    }


def _publish_result(
    context: StageContext, run: RunContext, uuid: str, awaited: set[str]
) -> Metadata:
    output, job = run.slot(uuid).output or context.stored_output(uuid), context.job(run, uuid)
    result = completed_result(job, output, run.timing(uuid))
    context.progress.end(uuid)
    if context.repository.results.finish(result, keep_earlier=run.identity.run_key is not None):
        _remove_surplus(context, result)
    run.slot(uuid).published = True
    if job.webhook or (job.callback and context.settings.app_server_url):
        awaited.add(uuid)
    return _result_metadata(job, result)


def _result_metadata(job: Job, result: Result) -> Metadata:
    """What to look at comes first: Dagster keeps the order."""
    return {
        "overlay_picture_key": keys.thumbnail(job.uuid),
        "segments": len(result.segments),
        "found": result.segments,
        "model": result.model,
        "came_by": job.via,
        **({"batch": batch} if (batch := batch_of(job.uuid)) else {}),
        "waited_seconds": _seconds_between(job.accepted_at, result.started_at),
        "total_seconds": _seconds_between(job.accepted_at, result.completed_at),
        "expires_at": result.expires_at,
        "answer_path": f"/jobs/{job.uuid}",
        "overlay_key": keys.overlay(job.uuid),
        "original_key": keys.original(job.uuid),
    }


def _remove_surplus(context: StageContext, result: Result) -> None:
    """Removes the masks and cut-outs that only an earlier attempt made.

    What cannot be removed goes with the job.
    """
    uuid = result.uuid
    try:
        stored = {info.key for info in context.store.list(keys.asset(uuid, ""))}
        surplus = {
            key for key in stored if key.startswith(keys.of_segments(uuid))
        } - result.files_of_segments
        now = context.repository.result(uuid) if surplus else None  # another run's by now, perhaps
        if now and now.status is JobStatus.COMPLETED:
            surplus -= now.files_of_segments
            context.store.at_once([partial(context.store.delete, key) for key in sorted(surplus)])
    except StoreError as error:
        logger.warning("job %s: files of an earlier attempt stay until it expires: %s", uuid, error)


def _record_callback(context: StageContext, run: RunContext, uuid: str) -> Metadata:
    if context.settings.app_server_url is None and context.job(run, uuid).webhook is None:
        raise NothingToTell.to_nobody()
    if not run.slot(uuid).published:
        context.repository.outbox.replay(uuid)
    return {}


def _seconds_between(begin: datetime, end: datetime) -> float:
    return round((end - begin).total_seconds(), 3)


def _each(
    context: StageContext, uuids: Sequence[str], work: Callable[[RunContext, str], Metadata]
) -> StageReport:
    """Does the work for each job, side by side."""
    with context.at_work() as run:
        futures = {uuid: run.prepare(uuid, work, run, uuid) for uuid in uuids}
        return _report({uuid: future.result for uuid, future in futures.items()})


def _collect(run: RunContext, stage: StageName, uuids: Iterable[str]) -> StageReport:
    """The report of a stage from its outcomes, which the run forgets."""
    return _report(run.take_outcomes(stage, uuids))


def _report(outcomes: Mapping[str, Outcome]) -> StageReport:
    report = StageReport()
    for uuid, outcome in outcomes.items():
        with _errors_into(report, uuid):
            report.metadata[uuid] = outcome()
        ACTIVITY.mark()
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
    except LeftToAnotherRun:
        report.left.append(uuid)
    except Exception as error:
        with about(uuid):
            logger.exception("job %s failed in a way nobody foresaw", uuid)
        report.errors[uuid] = UnexpectedError(
            f"An unexpected {type(error).__name__} occurred: {without_folders(str(error))}"
        )
