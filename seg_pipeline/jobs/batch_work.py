"""The work on batches: entries become jobs in portions, ends are counted, the end is told.

One process at a time does it, and may die at any write: what it did not record is done again.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from statistics import median

from seg_pipeline.domain import batch_of, index_in_batch
from seg_pipeline.errors import (
    BatchNotFound,
    JobCancelled,
    ObjectNotFound,
    SegPipelineError,
    StoreUnavailable,
)
from seg_pipeline.jobs.acceptance import Acceptance
from seg_pipeline.jobs.batch_records import Batch, BatchProgress, Entry, EntryState, state_of
from seg_pipeline.jobs.batches import CANCEL, Batches
from seg_pipeline.jobs.cancels import Cancels
from seg_pipeline.jobs.markers import each_marker, marker_name
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.jobs.records import FailureReason, Result, Timing, failed_result
from seg_pipeline.jobs.results import Results
from seg_pipeline.jobs.stored_jobs import read_job, read_result
from seg_pipeline.store import ObjectInfo, Store, keys
from seg_pipeline.store.serialization import write

LEAST_WINDOW = 8
"""Jobs that a batch may have under way, however many batches there are."""

ACCEPTED_AT_ONCE = 8
PER_PASS = 64
PICTURES_PER_PASS = 8
"""Jobs of a batch that one pass accepts; fewer with pictures, which are in memory meanwhile."""

QUIET = timedelta(seconds=10)
"""How long a batch must be unchanged before its new end is told, if jobs were run again."""


@dataclass
class WorkReport:
    """What passes did; `batches` are under way after the last."""

    batches: int = 0
    accepted: int = 0
    counted: int = 0
    ended: list[str] = field(default_factory=list)

    def add(self, later: "WorkReport") -> None:
        """Adds what a later pass did."""
        self.batches = later.batches
        self.accepted += later.accepted
        self.counted += later.counted
        self.ended += later.ended

    def summary(self) -> str:
        """One sentence for the tick."""
        return (
            f"{self.batches} batches under way: {self.accepted} jobs accepted,"
            f" {self.counted} ends counted, {len(self.ended)} batches ended."
        )


@dataclass
class _Todo:
    """What the markers say of a batch: its own marker, and its jobs' ends, places by keys."""

    marker: ObjectInfo | None = None
    news: dict[str, int] = field(default_factory=dict)

    @property
    def is_cancelled(self) -> bool:
        return self.marker is not None and self.marker.size == len(CANCEL)


@dataclass
class _Pass:
    """What holds for all batches of a pass, and what the pass did."""

    now: datetime
    share: int
    look: bool
    report: WorkReport
    is_backfill_over: Callable[[str], bool]


class BatchWork:
    """Advances the batches of a store."""

    def __init__(
        self,
        store: Store,
        batches: Batches,
        acceptance: Acceptance,
        results: Results,
        cancels: Cancels,
        outbox: Outbox,
    ) -> None:
        self._store = store
        self._batches = batches
        self._acceptance = acceptance
        self._results = results
        self._cancels = cancels
        self._outbox = outbox

    def advance(
        self,
        window: int,
        now: datetime,
        look: bool = False,
        is_backfill_over: Callable[[str], bool] = lambda _: True,
    ) -> WorkReport:
        """One pass over all batches, which together have some `window` jobs under way at most.

        With `look`, every job under way is read, whether or not a marker tells of its end. So a
        lost marker holds up no batch. The end after a rerun is told once its backfill is over.
        Raises StoreUnavailable.
        """
        todo = self._todo()
        batches = sum(each.marker is not None for each in todo.values())
        report = WorkReport(batches)
        share = max(LEAST_WINDOW, window // max(1, batches))
        this_pass = _Pass(now, share, look, report, is_backfill_over)
        for batch_id, each in sorted(todo.items()):
            try:
                self._advance(self._batches.get(batch_id), each, this_pass)
            except BatchNotFound:  # deleted
                self._drop([*each.news, keys.batch_work(batch_id)])
        return report

    def _todo(self) -> dict[str, _Todo]:
        todo: dict[str, _Todo] = defaultdict(_Todo)
        for info in each_marker(self._store, keys.BATCH_WORK):
            uuid, at, _ = marker_name(info).partition("@")
            if not at:
                todo[uuid].marker = info
            elif batch_id := batch_of(uuid):
                todo[batch_id].news[info.key] = index_in_batch(uuid)
        return todo

    def _advance(self, batch: Batch, todo: _Todo, this_pass: _Pass) -> None:
        """The progress is written before the markers go that it counts."""
        before = self._batches.progress(batch)
        progress = self._counted(batch, before, todo, this_pass)
        if progress.states != before.states and todo.marker is None:  # its new end is to be told
            self._store.create(keys.batch_work(batch.id), b"")
        if todo.is_cancelled:
            progress = self._cancelled(batch, progress, this_pass.now)
        accepted: Mapping[int, Entry] = {}
        if todo.marker is not None:
            progress, accepted = self._expanded(batch, progress, this_pass)
        progress = _ended(progress, this_pass.now).sampled(this_pass.now)
        if progress != before:
            self._store.put(keys.batch_progress(batch.id), write(progress))
        if todo.is_cancelled:
            self._store.put(keys.batch_work(batch.id), b"")
        self._drop([*todo.news, *_pictures(batch, accepted)])
        if todo.marker is not None and progress.is_over:
            self._end(batch, before, progress, this_pass)

    def _counted(
        self, batch: Batch, progress: BatchProgress, todo: _Todo, this_pass: _Pass
    ) -> BatchProgress:
        looked = progress.indices(EntryState.OPEN) if this_pass.look else []
        results = self._read_ends(batch, progress, {*todo.news.values(), *looked})
        states = {
            index: state_of(result) if result else EntryState.CANCELLED
            for index, result in results.items()
        }
        after = progress.with_states(states, this_pass.now)
        this_pass.report.counted += after.ended - progress.ended
        good = [result for result in results.values() if result and not result.error]
        seconds = [sum(result.seconds.values()) for result in good]
        return replace(after, picture_seconds=round(median(seconds), 4)) if seconds else after

    def _read_ends(
        self, batch: Batch, progress: BatchProgress, indices: Collection[int]
    ) -> dict[int, Result | None]:
        """The results of those entries whose jobs have ended; None if the job is gone."""
        known = sorted(index for index in indices if index < batch.total)
        reads = [partial(read_result, self._store, batch.uuid(index)) for index in known]
        results: dict[int, Result | None] = {}
        for index, stored in zip(known, self._store.at_once(reads), strict=True):
            if stored is not None:
                results[index] = stored.result
            elif progress.states[index] == EntryState.OPEN and self._is_gone(batch.uuid(index)):
                results[index] = None
        return results

    def _is_gone(self, uuid: str) -> bool:
        return self._store.head(keys.request(uuid)) is None

    def _expanded(
        self, batch: Batch, progress: BatchProgress, this_pass: _Pass
    ) -> tuple[BatchProgress, Mapping[int, Entry]]:
        """The progress after the acceptance of the next entries, and these."""
        room = min(PER_PASS, this_pass.share - progress.count(EntryState.OPEN))
        indices = progress.indices(EntryState.WAITING, limit=max(0, room))
        entries = _affordable(self._batches.chosen(batch, indices))
        calls = [
            partial(self._accept, batch, index, entry, this_pass.now)
            for index, entry in entries.items()
        ]
        refused = {
            index: reason
            for index, reason in zip(entries, _side_by_side(calls), strict=True)
            if reason is not None
        }
        this_pass.report.accepted += len(entries) - len(refused)
        states = {i: EntryState.FAILED if i in refused else EntryState.OPEN for i in entries}
        after = progress.with_states(states, this_pass.now)
        if refused:
            after = replace(after, refused={**progress.refused, **refused})
        return after, entries

    def _accept(
        self, batch: Batch, index: int, entry: Entry, now: datetime
    ) -> FailureReason | None:
        """Accepts an entry's job, perhaps again. Gives the reason why there can be none."""
        try:
            job = batch.job(index, entry, now)
            self._acceptance.accept(job, self._picture(batch, index, entry))
        except StoreUnavailable:
            raise
        except ObjectNotFound:
            if read_job(self._store, batch.uuid(index)):  # it was accepted, and has its picture
                return None
            return FailureReason(ObjectNotFound.code, "its picture is gone from the store.")
        except SegPipelineError as error:
            return FailureReason(error.code, str(error))
        return None

    def _picture(self, batch: Batch, index: int, entry: Entry) -> bytes | None:
        if entry.sha256 is None:
            return None
        return self._store.get(keys.batch_picture(batch.id, index, entry.sha256))

    def _cancelled(self, batch: Batch, progress: BatchProgress, now: datetime) -> BatchProgress:
        """Ends what waits, and has stopped what a worker has."""
        for index in progress.indices(EntryState.OPEN):
            self._cancel_job(batch.uuid(index), now)
        waiting = progress.indices(EntryState.WAITING)
        return progress.with_states(dict.fromkeys(waiting, EntryState.CANCELLED), now)

    def _cancel_job(self, uuid: str, now: datetime) -> None:
        job = read_job(self._store, uuid)
        if job is None:
            return
        if self._store.head(keys.inflight(uuid)):
            self._cancels.request(uuid)
        else:
            result = failed_result(job, JobCancelled(uuid), Timing(now, now))
            self._results.finish(result, keep_earlier=True)

    def _end(
        self, batch: Batch, before: BatchProgress, progress: BatchProgress, this_pass: _Pass
    ) -> None:
        """Has the batch's end told, and its work ended, once nothing of it is run again."""
        if before.ended_at is not None and not self._rests(batch, progress, this_pass):
            return
        self._outbox.record_batch(batch, progress.sha256, this_pass.now)
        self._store.delete(keys.batch_work(batch.id))
        this_pass.report.ended.append(batch.id)

    def _rests(self, batch: Batch, progress: BatchProgress, this_pass: _Pass) -> bool:
        """Whether nothing of a batch that had ended is run again."""
        backfill_id = self._batches.rerun(batch)
        if backfill_id is not None:
            if this_pass.is_backfill_over(backfill_id):
                self._batches.end_rerun(batch)  # the next pass sees what it did last
            return False
        return this_pass.now - progress.changed_at >= QUIET

    def _drop(self, markers: Sequence[str]) -> None:
        self._store.at_once([partial(self._store.delete, key) for key in markers])


def _side_by_side(
    calls: Sequence[Callable[[], FailureReason | None]],
) -> list[FailureReason | None]:
    """The results of acceptances side by side: each waits for the disk or the bucket."""
    with ThreadPoolExecutor(ACCEPTED_AT_ONCE, thread_name_prefix="batches") as pool:
        return [*pool.map(lambda call: call(), calls)]


def _affordable(entries: Mapping[int, Entry]) -> dict[int, Entry]:
    """The first of them, fewer if they have pictures."""
    has_pictures = any(entry.sha256 for entry in entries.values())
    limit = PICTURES_PER_PASS if has_pictures else PER_PASS
    return dict([*entries.items()][:limit])


def _pictures(batch: Batch, accepted: Mapping[int, Entry]) -> list[str]:
    """The keys of pictures that are their jobs' own now."""
    return [
        keys.batch_picture(batch.id, index, entry.sha256)
        for index, entry in accepted.items()
        if entry.sha256
    ]


def _ended(progress: BatchProgress, now: datetime) -> BatchProgress:
    if progress.ended_at is None and progress.is_over:
        return replace(progress, ended_at=now, samples=())
    return progress
