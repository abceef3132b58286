"""Limits on concurrent work. A request beyond them gets a time to try again; a probe never does."""

import asyncio
import ipaddress
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import HTTPConnection

from api.error_responses import Busy, TooManyRequests
from api.export_turns import ExportTurns
from api.read_turns import ReadTurns
from seg_pipeline.errors import StoreError, StoreFull
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys

READERS = 32
"""The most bodies that are read from the network at the same moment."""

LISTS_AT_ONCE = 2

SLOW_TURNS = 8
SLOW_BYTES = 1024
"""A body is slow after `SLOW_TURNS` empty turns, if it brought less than this for each of them."""

SMALL_DISK_SHARE = 50

COUNT_SECONDS = 1.0
COUNT_SHARE = 20
"""Counting jobs takes at most one part in so many of the time."""


@dataclass(eq=False)
class Slot:
    """One request's slot, and how well it uses it."""

    client: str
    received_bytes: int = 0
    empty_turns: int = 0
    was_taken: bool = False
    """Whether another request has the slot now, so that this one should end."""

    def turn(self, received_bytes: int) -> None:
        """Counts a turn of reading the body, and the bytes that it brought."""
        self.received_bytes += received_bytes
        self.empty_turns += not received_bytes

    @property
    def is_slow(self) -> bool:
        """Whether the body brings almost nothing while it is waited for."""
        return (
            self.empty_turns >= SLOW_TURNS and self.received_bytes < self.empty_turns * SLOW_BYTES
        )


class Slots:
    """Slots for one kind of work, in all and for each client.

    A slow body makes room for a new one.
    """

    def __init__(self, what: str, total: int, per_client: int) -> None:
        self._what, self._total, self._per_client = what, total, per_client
        self._slots: set[Slot] = set()
        self._by_client: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many are in use."""
        return len(self._slots)

    @contextmanager
    def hold(self, client: str) -> Iterator[Slot]:
        """Takes a slot for the block.

        Raises TooManyRequests if the client has all of its own, else Busy.
        """
        self._make_room(client)
        slot = Slot(client)
        self._slots.add(slot)
        self._by_client[client] += 1
        try:
            yield slot
        finally:
            self._give_back(slot)

    def _make_room(self, client: str) -> None:
        if self._by_client[client] >= self._per_client:
            if not self._end_a_slow_one(client):
                raise TooManyRequests(
                    f"you have {self._per_client} {self._what} already; try again in a moment."
                )
        elif self.taken >= self._total and not self._end_a_slow_one():
            raise Busy(
                f"the service has {self._total} {self._what} already; try again in a moment."
            )

    def _end_a_slow_one(self, client: str | None = None) -> bool:
        slow = next(
            (slot for slot in self._slots if slot.is_slow and client in (None, slot.client)), None
        )
        if slow:
            slow.was_taken = True
            self._give_back(slow)
        return slow is not None

    def _give_back(self, slot: Slot) -> None:
        if slot in self._slots:
            self._slots.discard(slot)
            self._by_client[slot.client] -= 1
            if not self._by_client[slot.client]:
                del self._by_client[slot.client]


class FreeSpace:
    """The bytes that must stay free on the disks of uploads; of a small disk, one in fifty."""

    def __init__(self, folders: Sequence[Path], least_bytes: int) -> None:
        self._folders, self._least_bytes = folders, least_bytes

    def check(self, more_bytes: int) -> None:
        """Raises StoreFull if so many bytes do not fit, and Busy if too few would stay free."""
        for folder in self._folders:
            disk = shutil.disk_usage(_existing(folder))
            if disk.free < more_bytes:
                raise StoreFull(
                    f"{more_bytes} bytes more do not fit beside {folder}: {disk.free} are free."
                )
            if disk.free - more_bytes < min(self._least_bytes, disk.total // SMALL_DISK_SHARE):
                raise Busy(
                    f"the disk has {disk.free} bytes free, and MIN_FREE_BYTES = {self._least_bytes}"
                    f" must stay so (of a small disk one part in {SMALL_DISK_SHARE}); try again"
                    " when some has been freed."
                )


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


class Backlog:
    """The number of unfinished jobs, counted now and then, since that takes a listing."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store, self._limit = store, limit
        self._counted = self._added = 0
        self._good_until = 0.0

    def add(self) -> None:
        """Counts a job that was accepted since the last count."""
        self._added += 1

    def check(self) -> None:
        """Raises Busy if there are too many jobs. Blocks when it is time to count again."""
        with suppress(StoreError):  # whoever writes the job says so
            self._count_if_due()
        waiting = self._counted + self._added
        if waiting >= self._limit:
            raise Busy(
                f"{waiting} jobs wait already, MAX_QUEUED_JOBS = {self._limit}; try again in a"
                " moment."
            )

    def _count_if_due(self) -> None:
        began = time.monotonic()
        if began < self._good_until:
            return
        self._good_until = began + COUNT_SECONDS  # the others go on with what was counted last
        added = self._added
        self._counted = sum(
            self._store.count(prefix) for prefix in (keys.FETCHING, keys.INBOX, keys.INFLIGHT)
        )
        self._added -= added
        ended = time.monotonic()
        self._good_until = ended + max(COUNT_SECONDS, COUNT_SHARE * (ended - began))


@dataclass(frozen=True)
class Admission:
    """All the limits of one process."""

    uploads: Slots
    waits: Slots
    space: FreeSpace
    backlog: Backlog
    exports: ExportTurns
    listeners: Slots
    turns: ReadTurns = field(default_factory=lambda: ReadTurns(READERS))
    lists: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LISTS_AT_ONCE))
    """A turn to read a batch's list, which is in memory meanwhile."""
    zips: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LISTS_AT_ONCE))
    """A turn to unpack a batch's ZIP, which takes a while."""

    @classmethod
    def build(cls, settings: Settings, store: Store) -> "Admission":
        """The limits of the settings."""
        folders = [settings.uploads_path, *([] if settings.s3_bucket else [settings.assets_path])]
        return cls(
            Slots("uploads under way", settings.max_uploads, settings.max_uploads_per_client),
            Slots("requests waiting", settings.max_waiting, settings.max_waiting_per_client),
            FreeSpace(folders, settings.min_free_bytes),
            Backlog(store, settings.max_queued_jobs),
            ExportTurns(settings.max_exports),
            Slots("listeners", settings.max_listeners, settings.max_listeners_per_client),
        )

    def check(self, announced_bytes: int) -> None:
        """Raises Busy if another job, or an upload of so many bytes, is too much now; blocking."""
        self.backlog.check()
        self.space.check(announced_bytes)


def client_of(connection: HTTPConnection) -> str:
    """The client, as far as limits go."""
    return client_key(connection.client.host if connection.client else "")


def client_key(host: str) -> str:
    """The address itself, or the network of 64 bits of an IPv6 address, as a household has it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
