"""Results that answer the same question once more: by the hash of what was asked for.

    first    reuse/{hash} names the job, once that is accepted
    again    request.json → the files of the first → result.json → …    without a marker

The second job has its uuid, its files and its end. In a folder they are links to the same bytes. So
neither job is touched when the other expires or is deleted. A process may die between any two
writes: what it leaves is an acceptance that died half way, or an end that did.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, BinaryIO

from seg_pipeline.domain import Job, JobStatus
from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.acceptance import Acceptance, Accepted
from seg_pipeline.jobs.markers import each_marker
from seg_pipeline.jobs.records import Result
from seg_pipeline.jobs.results import Results
from seg_pipeline.jobs.stored_jobs import read_result
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

_LEFT = timedelta(seconds=30)
"""A result that expires sooner is not copied any more."""

_OF_ONE_JOB = frozenset({"request.json", "result.json", "delivery.json", "evidence.json"})


@dataclass(frozen=True)
class ReusableJob:
    """The job that was asked for what a hash stands for."""

    uuid: str


@dataclass(frozen=True)
class _Earlier:
    """A job that answers others, and the keys of its files."""

    result: Result
    files: list[str]


class Reuse:
    """Answers jobs of a store from the results of others."""

    def __init__(self, store: Store, acceptance: Acceptance, results: Results) -> None:
        self._store = store
        self._acceptance = acceptance
        self._results = results

    def accept(self, job: Job, data: bytes | BinaryIO, name: str) -> Accepted:
        """Accepts an upload. It has ended then, if an earlier result has that name.

        Else later jobs of the name may be answered from this one. Raises as an acceptance does.
        """
        began = time.perf_counter()
        earlier = self._earlier(name)
        if earlier is None or earlier.result.uuid == job.uuid:
            accepted = self._acceptance.accept(job, data)
        else:
            end = partial(self._end, job, earlier, began)
            accepted = self._acceptance.accept(job, data, end)
        if earlier is None and accepted.created:
            with suppress(StoreError):  # the job is accepted all the same
                self._store.put(keys.reuse(name), write(ReusableJob(job.uuid)))
        return accepted

    def forgotten(self, before: datetime) -> Iterator[str]:
        """The store's keys of names, noted before that time, whose job is gone."""
        for info in each_marker(self._store, keys.REUSE):
            if info.last_modified < before:
                noted = load(self._store, ReusableJob, info.key)
                if noted is None or self._store.head(keys.request(noted.uuid)) is None:
                    yield info.key

    def _end(self, job: Job, earlier: _Earlier, began: float) -> bool:
        """Ends a job whose request alone is stored. Else a worker does it."""
        with suppress(StoreError):
            if self._copy_files(earlier, job):
                result = _copied(earlier.result, job, time.perf_counter() - began)
                return self._results.finish(result, keep_earlier=True)
        return False

    def _earlier(self, name: str) -> _Earlier | None:
        """The completed job that the name stands for, if it is kept for a while yet."""
        with suppress(StoreError):
            noted = load(self._store, ReusableJob, keys.reuse(name))
            if noted is None:
                return None
            reads: list[Callable[[], Any]] = [
                partial(read_result, self._store, noted.uuid),
                partial(self._store.list, keys.asset(noted.uuid, "")),
            ]
            stored, infos = self._store.at_once(reads)
            if stored and _is_to_copy(stored.result):
                return _Earlier(stored.result, [info.key for info in infos])
        return None

    def _copy_files(self, earlier: _Earlier, job: Job) -> bool:
        """Copies all files; False if the earlier job is being removed."""
        result = earlier.result
        crops = {each.crop_key: keys.crop(job.uuid, each.segment_id) for each in result.segments}
        copies = _copies(earlier.files, result.uuid, job.uuid, crops)
        source = keys.source(result.uuid, job.source_extension or "bin")
        if not {*result.files_of_segments, result.original_key, source} <= copies.keys():
            return False
        self._store.at_once([partial(self._store.copy, *pair) for pair in copies.items()])
        return True


def _is_to_copy(result: Result) -> bool:
    is_kept = result.expires_at > datetime.now(UTC) + _LEFT
    return result.status is JobStatus.COMPLETED and is_kept


def _copies(found: list[str], earlier: str, uuid: str, crops: Mapping[str, str]) -> dict[str, str]:
    """Which file becomes which: all but what is a job's own, and cut-outs of no use."""
    prefix, crops_prefix = keys.asset(earlier, ""), keys.of_segments(earlier)[1]
    names = [key.removeprefix(prefix) for key in found if not key.startswith(crops_prefix)]
    kept = [name for name in names if name not in _OF_ONE_JOB]
    return {prefix + name: keys.asset(uuid, name) for name in kept} | {
        key: target for key, target in crops.items() if key in found
    }


def _copied(earlier: Result, job: Job, seconds: float) -> Result:
    """The earlier result as that of the job."""
    now = datetime.now(UTC)
    return replace(
        earlier,
        uuid=job.uuid,
        original_key=keys.original(job.uuid),
        overlay_key=keys.overlay(job.uuid),
        segments=tuple(
            replace(
                each,
                mask_key=keys.mask(job.uuid, each.segment_id),
                crop_key=keys.crop(job.uuid, each.segment_id),
            )
            for each in earlier.segments
        ),
        accepted_at=job.accepted_at,
        started_at=now,
        completed_at=now,
        expires_at=job.expires_at(now),
        seconds={"reuse": round(seconds, 4)},
    )
