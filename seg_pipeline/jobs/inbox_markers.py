"""The inbox's markers: whose turn it is, and whether the picture could be fetched.

A listing gives each marker's name, size and time. So the size of a marker says all else that the
order of the jobs needs, and no job is read for it.
"""

from datetime import datetime, timedelta

from seg_pipeline.domain import Job, Priority, batch_of
from seg_pipeline.jobs.markers import marker_name
from seg_pipeline.store import ObjectInfo

FAILED = b"failed"
"""The marker of a job whose picture could not be fetched."""

_MARKERS = {Priority.NORMAL: b"", Priority.LOW: b"low", Priority.HIGH: b"high"}

_AHEAD = {
    len(_MARKERS[Priority.HIGH]): timedelta(minutes=10),
    len(_MARKERS[Priority.LOW]): timedelta(minutes=-10),
}
"""By how much a priority moves a job's turn. One that has waited longer goes before it."""

_BATCH_YIELDS = timedelta(hours=1)
"""So long a batch's job lets jobs of their own go first."""


def ready_marker(job: Job) -> bytes:
    """What the marker holds of a job that waits for its run."""
    return _MARKERS[job.priority]


def is_failed_marker(size: int) -> bool:
    """Whether an inbox marker of so many bytes says that the picture could not be fetched."""
    return size == len(FAILED)


def turn(info: ObjectInfo) -> tuple[datetime, str]:
    """When the job's turn is, earlier ones first. No job is put off for ever."""
    yields = _BATCH_YIELDS if batch_of(marker_name(info)) else timedelta()
    return info.last_modified + yields - _AHEAD.get(info.size, timedelta()), info.key
