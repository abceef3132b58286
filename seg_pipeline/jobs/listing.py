"""A list of jobs, by where they stand; no job is read."""

import base64
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from seg_pipeline.domain import JobStatus, check_uuid
from seg_pipeline.errors import InvalidPageToken, InvalidUuid
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, uuids_at_work
from seg_pipeline.jobs.markers import each_marker, marker_name
from seg_pipeline.store import Store, keys

_GROUPS = (
    (keys.FETCHING, JobStatus.QUEUED),
    (keys.INBOX, JobStatus.QUEUED),
    (keys.INFLIGHT, JobStatus.QUEUED),
    (keys.INFLIGHT, JobStatus.PROCESSING),
    (keys.done("failed", ""), JobStatus.FAILED),
    (keys.done("completed", ""), JobStatus.COMPLETED),
)


@dataclass(frozen=True)
class JobEntry:
    """A line of a listing: where the job stood at that time, and since when."""

    uuid: str
    status: JobStatus
    since: datetime


@dataclass(frozen=True)
class Page:
    """Part of a listing; `next` is the token for what follows, None at the end."""

    jobs: list[JobEntry]
    next: str | None


@dataclass(frozen=True)
class _Cursor:
    """Where a page ended: the group of `_GROUPS` and the last uuid."""

    group: int = 0
    uuid: str | None = None

    def token(self) -> str:
        return base64.urlsafe_b64encode(f"{self.group}:{self.uuid}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, token: str | None) -> "_Cursor":
        if not token:
            return cls()
        try:
            text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
            group, _, uuid = text.partition(":")
            return cls(range(len(_GROUPS)).index(int(group)), check_uuid(uuid))
        except (ValueError, InvalidUuid) as error:
            raise InvalidPageToken from error


class JobListing:
    """The list of a store's jobs. Raises StoreUnavailable when the store fails."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def page(
        self,
        status: JobStatus | None,
        after: str | None,
        limit: int,
        live_heartbeats: Iterable[WorkerHeartbeat] = (),
    ) -> Page:
        """Jobs with a status, or all: queued, processing, failed, completed; each group by uuid.

        `after` is the former page's `next`; any other token raises InvalidPageToken. A job that
        moves on between two pages may be listed twice or not at all.
        """
        live = uuids_at_work(live_heartbeats)
        found = [*islice(self._entries(status, _Cursor.parse(after), live), limit + 1)]
        token = found[limit - 1][1].token() if len(found) > limit else None
        return Page([entry for entry, _ in found[:limit]], token)

    def _entries(
        self, wanted: JobStatus | None, cursor: "_Cursor", live: Collection[str]
    ) -> "Iterator[tuple[JobEntry, _Cursor]]":
        claimed = {marker_name(info) for info in each_marker(self._store, keys.INFLIGHT)}
        # By group: a job between two steps has both markers. An inflight marker has two statuses.
        skipped = {
            0: lambda uuid: uuid in claimed or self._store.head(keys.inbox(uuid)) is not None,
            1: claimed.__contains__,
            2: live.__contains__,
            3: lambda uuid: uuid not in live,
        }
        for group, (prefix, status) in enumerate(_GROUPS):
            if group < cursor.group or wanted not in (None, status):
                continue
            for info in each_marker(
                self._store, prefix, cursor.uuid if group == cursor.group else None
            ):
                uuid = marker_name(info)
                if group not in skipped or not skipped[group](uuid):
                    yield JobEntry(uuid, status, info.last_modified), _Cursor(group, uuid)
