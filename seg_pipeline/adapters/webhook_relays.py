"""A relay for each host of webhooks, side by side: one that never answers holds up no other."""

import logging
import threading
from collections.abc import Callable, Sequence

from seg_pipeline.adapters.outbox_relay import (
    USUAL_TIMING,
    Destination,
    OutboxRelay,
    RelayReport,
    RelayTiming,
)
from seg_pipeline.adapters.public_network import Resolver
from seg_pipeline.adapters.webhooks import Webhooks
from seg_pipeline.jobs.outbox import Outbox
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store

logger = logging.getLogger(__name__)

HOSTS_AT_ONCE = 64
"""So many hosts are told at the same time, each by a thread. The others wait for a turn."""

ANSWERS_WITHIN_SECONDS = 0.2
"""How long a round waits for hosts that are quick. What comes later is of a later round."""


class WebhookRelays:
    """Tells webhooks; one per process. Each host has the outages, pauses and limits of its own."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        timing: RelayTiming = USUAL_TIMING,
        resolver: Resolver | None = None,
    ) -> None:
        self._outbox = Outbox(store)
        self._server = Webhooks(settings, timing.limits, resolver=resolver)
        self._make = lambda queue: OutboxRelay(
            store, settings, timing, Destination(self._server, queue)
        )
        self._relays: dict[str, OutboxRelay] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._reports: list[RelayReport] = []
        self._lock = threading.Lock()

    def deliver(self, may_start: Callable[[], bool] = lambda: True) -> RelayReport:
        """Begins what is due at hosts that are not being told yet, while `may_start` holds.

        Reports what has ended since the last call. Raises StoreError if the outbox cannot be read.
        """
        self._threads = {
            queue: thread for queue, thread in self._threads.items() if thread.is_alive()
        }
        self._begin(self._outbox.webhook_queues(), may_start)
        for thread in [*self._threads.values()]:
            thread.join(ANSWERS_WITHIN_SECONDS / max(1, len(self._threads)))
        return self._take_reports()

    def wait(self) -> None:
        """Returns when no host is being told any more."""
        for thread in [*self._threads.values()]:
            thread.join()

    def _begin(self, queues: Sequence[str], may_start: Callable[[], bool]) -> None:
        """Those that have waited longest for their turn come first."""
        turns = [queue for queue in self._relays if queue in set(queues)]
        self._relays = {queue: self._relays[queue] for queue in turns}
        for queue in dict.fromkeys((*turns, *queues)):
            if queue in self._threads:
                continue
            if len(self._threads) >= HOSTS_AT_ONCE:
                return
            relay = self._relays.pop(queue, None) or self._make(queue)
            self._relays[queue] = relay
            if not relay.wait_seconds():
                self._start(queue, relay, may_start)

    def _start(self, queue: str, relay: OutboxRelay, may_start: Callable[[], bool]) -> None:
        thread = threading.Thread(
            target=self._tell, args=(relay, may_start), name="webhook", daemon=True
        )
        self._threads[queue] = thread
        thread.start()

    def _tell(self, relay: OutboxRelay, may_start: Callable[[], bool]) -> None:
        try:
            report = relay.deliver(may_start)
        except Exception as error:
            logger.warning("a host's webhooks have to wait: %s", error)
            return
        with self._lock:
            self._reports.append(report)

    def _take_reports(self) -> RelayReport:
        with self._lock:
            reports, self._reports = self._reports, []
        return RelayReport(
            [delivery for report in reports for delivery in report.ended],
            [delivery for report in reports for delivery in report.put_off],
        )
