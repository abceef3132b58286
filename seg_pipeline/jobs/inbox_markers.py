"""The inbox's markers: whose turn it is, and whether the picture could be fetched.

A listing gives each marker's name, size and time. So the size of a marker says all else that the
order of the jobs needs, and no job is read for it.
"""

from datetime import datetime, timedelta

from seg_pipeline.domain import Job, Lane, Priority, batch_of
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.store import ObjectInfo

FAILED = b"failed"
"""The marker of a job whose picture could not be fetched."""

_MARKERS = {Priority.NORMAL: b"", Priority.LOW: b"low", Priority.HIGH: b"high"}

_QUEUE_MARKERS = {**_MARKERS, Priority.NORMAL: b"queue", Priority.LOW: b"low-queue"}
"""Those of jobs that came by the queue. One of high priority waits as single jobs do."""

_QUEUE_SIZES = {len(marker) for marker in (b"queue", b"low-queue", b"low")}
"""A single job of low priority waits in the lane of the queue."""

_AHEAD = {
    len(_MARKERS[Priority.HIGH]): timedelta(minutes=10),
    len(_QUEUE_MARKERS[Priority.LOW]): timedelta(minutes=-10),
}
"""By how much a priority moves a job's turn. One that has waited longer goes before it."""

_YIELDS = {
    Lane.SINGLE: timedelta(),
    Lane.QUEUE: timedelta(minutes=30),
    Lane.BATCH: timedelta(hours=1),
}
"""How long a lane's job lets those of earlier lanes go first. Then it counts as a single job."""


def lane_at_first(came_by: str, priority: Priority) -> Lane:
    """The lane of a job that has just come."""
    if came_by == "batch":
        return Lane.BATCH
    is_later = priority is Priority.LOW or (came_by == "sqs" and priority is not Priority.HIGH)
    return Lane.QUEUE if is_later else Lane.SINGLE


def ready_marker(job: Job) -> bytes:
    """What the marker holds of a job that waits for its run."""
    markers = _QUEUE_MARKERS if job.via == "sqs" else _MARKERS
    return markers[job.priority]


def is_failed_marker(size: int) -> bool:
    """Whether an inbox marker of so many bytes says that the picture could not be fetched."""
    return size == len(FAILED)


def turn(info: ObjectInfo) -> tuple[datetime, str]:
    """When the job's turn is, earlier ones first. No job is put off for ever."""
    yields = _YIELDS[_lane_of_marker(info)]
    return info.last_modified + yields - _AHEAD.get(info.size, timedelta()), info.key


def lane(info: ObjectInfo, now: datetime) -> Lane:
    """The lane of the job: that of single jobs, once it has let them go first for long enough."""
    at_first = _lane_of_marker(info)
    return at_first if now - info.last_modified < _YIELDS[at_first] else Lane.SINGLE


def _lane_of_marker(info: ObjectInfo) -> Lane:
    if batch_of(marker_name(info)):
        return Lane.BATCH
    return Lane.QUEUE if info.size in _QUEUE_SIZES else Lane.SINGLE
