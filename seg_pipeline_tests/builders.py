"""Small real things for tests, each with only what the test is about spelled out."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from seg_pipeline.domain import BoolMask, Job, JobStatus, Mask, Parameters, RgbImage, Segment
from seg_pipeline.errors import NotAnImage, SegPipelineError
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.jobs.fetches import FetchRecord, FetchState
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat
from seg_pipeline.jobs.leftovers import SearchRound, places_of, search
from seg_pipeline.jobs.model_output import ModelOutput
from seg_pipeline.jobs.records import (
    FailureReason,
    Result,
    Timing,
    completed_result,
    failed_result,
)
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.segmenters import Notes, Segmenter
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests import unended
from seg_pipeline_tests.given_settings import GivenSettings

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def make_job(uuid: str = "job-1", **asked: Any) -> Job:
    """A job for an upload, unless an `image_url` is given."""
    if "image_url" not in asked:
        asked = {"source_sha256": "ab" * 32, "source_extension": "png", **asked}
    return Job(uuid, **{"model": "demo-yolo", "accepted_at": NOON, **asked})


def make_picture(width: int = 32, height: int = 24, seed: int = 0) -> RgbImage:
    """A smooth `(H, W, 3) uint8` picture whose pixels differ everywhere."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack(
        [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), (x + y + seed * 40) % 256],
        axis=-1,
    )
    return ramp.astype(np.uint8)


def picture_bytes(picture: RgbImage | None = None, format: str = "PNG", **options: Any) -> bytes:
    """The picture in a file format of Pillow's."""
    return saved(Image.fromarray(make_picture() if picture is None else picture), format, **options)


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    """A Pillow picture of any mode as a file's bytes."""
    buffer = BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def bits(drawing: str) -> BoolMask:
    """A full-frame `(H, W) bool` drawn as text: `#` is set, `.` is not, a line or a `/` a row."""
    rows = [row.strip() for row in drawing.replace("/", "\n").split("\n") if row.strip()]
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def drawn(mask: Mask) -> str:
    """The mask as `bits` reads it, rows divided by `/`."""
    return "/".join("".join("#" if pixel else "." for pixel in row) for row in mask.full())


def mask_of(full: BoolMask) -> Mask:
    """The mask of a full frame `(H, W)` in which a pixel is set."""
    mask = Mask.from_full(full)
    assert mask is not None, "no pixel is set"
    return mask


def make_mask(drawing: str = "..../.##./.##./....") -> Mask:
    """A mask drawn as text; at least one `#`."""
    return mask_of(bits(drawing))


def make_segment(drawing: str = "..../.##./.##./....", **scores: Any) -> Segment:
    """A segment as YOLO gives it, unless scores are named. `star=##/##` is one of that label."""
    label, _, mask = drawing.rpartition("=")
    found = {"label": label or "disc", "confidence": 0.75}
    return Segment(make_mask(mask), **(scores or found))


def make_found(*drawings: str, **fields: Any) -> ModelOutput:
    """What a model found: a segment for each drawing; none without drawings."""
    segments = [make_segment(drawing) for drawing in drawings]
    size = segments[0].mask.resolution_wh if segments else (4, 4)
    return ModelOutput(**{"model": "demo-yolo", "weights_sha256": "0" * 64, "resolution_wh": size,
                    "seconds": 0.125,
                    "segments": segments, **fields})  # fmt: skip


def make_timing(
    started_at: datetime = NOON, completed_at: datetime = NOON, **seconds: float
) -> Timing:
    """When a job was worked on."""
    return Timing(started_at, completed_at, seconds)


def make_result(
    uuid: str = "job-1",
    status: str = "completed",
    expires_at: datetime = NOON + timedelta(hours=1),
    **fields: Any,
) -> Result:
    """How a job ended, without segments unless they are given."""
    times = dict.fromkeys(("accepted_at", "started_at", "completed_at"), NOON)
    given = {"uuid": uuid, "model": "demo-yolo", "expires_at": expires_at, **times, **fields}
    return Result(status=JobStatus(status), **given)


def make_scene_picture(boxes: int = 2, width: int = 64, height: int = 48) -> RgbImage:
    """White paper with black bars, each of which `BarSegmenter` finds."""
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    for index in range(boxes):
        left = 4 + index * (width // max(boxes, 1))
        picture[8 : 20 + 4 * index, left : left + 10] = 0
    return picture


class BarSegmenter:
    """A segmenter without a network: every connected dark region is a segment. It counts its
    calls."""

    name = "demo-yolo"
    weights_sha256 = "f" * 64
    device = "cpu"

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.closed = False
        self.notes: Notes = {"inference_mode": "exact"}

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """Dark regions, left to right."""
        self.calls.append(len(images))
        return [self._segment(image) for image in images]

    def close(self) -> None:
        """Notes that it was closed."""
        self.closed = True

    @staticmethod
    def _segment(image: RgbImage) -> list[Segment]:
        count, regions = cv2.connectedComponents((image.mean(axis=2) < 100).astype(np.uint8))
        masks = (Mask.from_full(regions == region) for region in range(1, count))
        return [Segment(mask, label="bar", confidence=0.9) for mask in masks if mask]


def make_context(
    folder: Path, store: Store | None = None, segmenter: Segmenter | None = None, **values: Any
) -> StageContext:
    """A context over memory, or the store given, with `BarSegmenter` under every model's name."""
    chosen = segmenter or BarSegmenter()
    settings = GivenSettings(**{"data_dir": folder / "data", "model": "demo-yolo", **values})
    context = StageContext(
        settings, store or ObjectStore.in_memory(), WarmModels(settings, lambda name, _: chosen)
    )
    unended.end_later(context.progress)
    return context


def accept_upload(context: StageContext, uuid: str, data: bytes | None = None, **asked: Any) -> Job:
    """A job in the inbox, as the API accepts an upload."""
    data = picture_bytes(make_scene_picture()) if data is None else data
    job = Job(
        uuid,
        **{
            "model": "demo-yolo",
            "source_sha256": fingerprint(data),
            "source_extension": "png",
            **asked,
        },
    )
    return context.repository.acceptance.accept(job, data).job


def bring_picture(
    repository: JobRepository,
    uuid: str = "job-1",
    data: bytes = b"picture",
    error: SegPipelineError | None = None,
) -> None:
    """What a fetcher does for a job with an address: its picture is in the store, or why there is
    none."""
    job, record = (
        repository.job(uuid),
        FetchRecord(attempts=1, host="pictures.example:443", seconds=0.25),
    )
    if error:
        repository.fetches.failed(job, record.failed(error))
    else:
        repository.fetches.fetched(
            job, data, replace(record, state=FetchState.FETCHED, status=200, size=len(data))
        )


def accept_address(
    context: StageContext, uuid: str, data: bytes | None = None, **asked: Any
) -> Job:
    """A job in the inbox whose picture was fetched."""
    data = picture_bytes(make_scene_picture()) if data is None else data
    job = context.repository.acceptance.accept(
        make_job(uuid, **{"image_url": "https://pictures.example/a.png?sig=secret", **asked})
    ).job
    bring_picture(context.repository, uuid, data)
    return job


def stored_files(context: StageContext, uuid: str) -> dict[str, bytes]:
    """Every file of a job but the documents that carry times."""
    infos = context.store.list(keys.asset(uuid, ""))
    return {
        info.key: context.store.get(info.key) for info in infos if not info.key.endswith(".json")
    }


def make_heartbeat(
    name: str = "worker-1", beat_at: datetime = NOON, **fields: Any
) -> WorkerHeartbeat:
    """A worker's sign of life."""
    return WorkerHeartbeat(
        **{"name": name, "pid": 1, "host": "host", "beat_at": beat_at, "started_at": NOON, **fields}
    )


def make_queue_job(uuid: str = "job-1", **asked: Any) -> Job:
    """A job as it comes by the queue: a picture to fetch, and an app server that waits."""
    return make_job(
        uuid,
        **{"image_url": "https://pictures.example/a.png", "via": "sqs", "callback": True, **asked},
    )


def end_queue_job(
    repository: JobRepository,
    uuid: str = "job-1",
    ended_at: datetime = NOON,
    failed: bool = False,
    **asked: Any,
) -> Result:
    """Takes a job from the queue to its end, with two segments or a failure; gives its result."""
    job = repository.acceptance.accept(make_queue_job(uuid, **asked)).job
    timing = make_timing(completed_at=ended_at)
    found = make_found("#..#/#..#/####", ".##./.##./....")
    result = (
        failed_result(job, NotAnImage("No picture."), timing)
        if failed
        else completed_result(job, found, timing)
    )
    repository.results.finish(result)
    return result


def result_of(repository: JobRepository, uuid: str = "job-1") -> Result:
    """How a job ended; the test fails if it has not."""
    result = repository.result(uuid)
    assert result is not None, f"{uuid} has not ended"
    return result


def error_of(repository: JobRepository, uuid: str = "job-1") -> FailureReason:
    """Why a job failed; the test fails if it has not."""
    error = result_of(repository, uuid).error
    assert error is not None, f"{uuid} has not failed"
    return error


def orphans(repository: JobRepository, older_than: datetime) -> list[str]:
    """What a whole round of the search for leftovers finds in the store."""
    found = search(places_of(repository, older_than), SearchRound(NOON), 100_000, NOON).leftovers
    return sorted({uuid for uuids in found.values() for uuid in uuids})


def waiting_uuids(repository: JobRepository, limit: int = 10) -> list[str]:
    """Jobs that nobody has claimed, the longest waiting first; those without a picture last."""
    waiting = repository.claims.waiting(limit)
    return [*waiting.ready, *waiting.failed][:limit]
