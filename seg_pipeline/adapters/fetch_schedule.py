"""Which picture is fetched next: hosts take turns, and a slow one delays nobody else."""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from seg_pipeline.jobs.fetches import PendingFetch

SLOW_AFTER_SECONDS = 2.0
"""A fetch that takes longer is slow. It keeps its connection, and another one may begin."""

_PER_ADDRESS = 4
"""A factor of the limit for a host, since several hosts may share an address."""

_SLOW = 2
_ALL = 4
"""Factors of the limit for quick fetches: at so many slow ones, or fetches in all, none begins."""


@dataclass
class ScheduledFetch:
    """A fetch that waits for its turn or is under way.

    `address` is known once it was found to be busy.
    """

    pending: PendingFetch
    host: str
    due_at: datetime
    address: str = ""

    @property
    def uuid(self) -> str:
        """The job's uuid."""
        return self.pending.job.uuid

    @property
    def is_retry(self) -> bool:
        """Whether the picture was tried before."""
        return self.pending.record.attempts > 0


class AddressBusy(Exception):
    """As many fetches as may use an address use it now; this one begins again later."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


@dataclass
class FetchSlots:
    """How many fetches are under way: quick and slow ones, by host and by address.

    Retries begin as slow ones. So an unknown host that hangs takes a quick slot for two seconds
    alone, and one that hung before takes none.
    """

    at_once: int
    per_host: int
    quick: int = 0
    slow: int = 0
    hosts: Counter[str] = field(default_factory=Counter)
    addresses: Counter[str] = field(default_factory=Counter)

    def may_begin(self, fetch: ScheduledFetch) -> bool:
        """Whether there is a slot for the fetch now."""
        if self.hosts[fetch.host] >= self.per_host or self.is_busy(fetch.address):
            return False
        if self.quick + self.slow >= _ALL * self.at_once:
            return False
        return self.slow < _SLOW * self.at_once if fetch.is_retry else self.quick < self.at_once

    def is_busy(self, address: str) -> bool:
        """Whether no other fetch may connect to the address."""
        return self.addresses[address] >= _PER_ADDRESS * self.per_host

    def take(self, fetch: ScheduledFetch) -> "FetchSlot":
        """Takes a slot for the fetch."""
        return FetchSlot(self, fetch.host, fetch.is_retry)


class FetchSlot:
    """What one fetch counts for, until it is freed."""

    def __init__(self, slots: FetchSlots, host: str, is_slow: bool) -> None:
        self._slots = slots
        self._host = host
        self._is_slow = is_slow
        self._addresses: set[str] = set()
        slots.hosts[host] += 1
        slots.slow += is_slow
        slots.quick += not is_slow

    def mark_slow(self) -> None:
        """Counts the fetch as slow from now on."""
        if not self._is_slow:
            self._is_slow = True
            self._slots.quick -= 1
            self._slots.slow += 1

    def connect(self, address: str, port: int) -> None:
        """Counts a connection that is about to be made; raises AddressBusy if none may be."""
        name = f"{address}:{port}"
        if name in self._addresses:
            return
        if self._slots.is_busy(name):
            raise AddressBusy(name)
        self._addresses.add(name)
        self._slots.addresses[name] += 1

    def free(self) -> None:
        """Ends the fetch's share in all counts."""
        self._slots.slow -= self._is_slow
        self._slots.quick -= not self._is_slow
        for counter, names in (
            (self._slots.hosts, {self._host}),
            (self._slots.addresses, self._addresses),
        ):
            counter.subtract(names)
            for name in names:
                if not counter[name]:
                    del counter[name]


class FetchSchedule:
    """The waiting fetches by host; of each host, the one that is due longest comes first."""

    def __init__(self, slots: FetchSlots) -> None:
        self._slots = slots
        self._hosts: dict[str, list[tuple[datetime, str]]] = {}
        self._waiting: dict[str, ScheduledFetch] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, fetch: ScheduledFetch) -> None:
        """Lets the fetch wait until it is due and there is a slot."""
        self._waiting[fetch.uuid] = fetch
        heapq.heappush(self._hosts.setdefault(fetch.host, []), (fetch.due_at, fetch.uuid))

    def discard(self, uuid: str) -> None:
        """Drops the fetch of a job that is gone."""
        self._waiting.pop(uuid, None)

    def next(self, now: datetime) -> ScheduledFetch | None:
        """A fetch that may begin now, of the host whose last turn is longest ago."""
        for host in [*self._hosts]:
            fetch = self._first_of(host)
            if fetch and fetch.due_at <= now and self._slots.may_begin(fetch):
                heapq.heappop(self._hosts[host])
                del self._waiting[fetch.uuid]
                self._hosts[host] = self._hosts.pop(host)  # to the end of the queue
                return fetch
        return None

    def begin_due(self, now: datetime) -> Iterator[ScheduledFetch]:
        """Every fetch that may begin now. The caller takes a slot for each before the next."""
        while fetch := self.next(now):
            yield fetch

    def _first_of(self, host: str) -> ScheduledFetch | None:
        row = self._hosts[host]
        while row:
            due_at, uuid = row[0]
            fetch = self._waiting.get(uuid)
            if fetch and fetch.due_at == due_at and fetch.host == host:
                return fetch
            heapq.heappop(row)
        del self._hosts[host]
        return None
