"""Whether a job sent now would be accepted and processed."""

import asyncio
import time
from datetime import UTC, datetime

from api.service import Service, in_probe_thread
from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.drain import read_drain
from seg_pipeline.jobs.heartbeats import all_workers, live_fetchers
from seg_pipeline.store import keys

CACHE_SECONDS = 1.0
PATIENCE_SECONDS = 5.0


class ReadinessCheck:
    """Checks at most once a second, one at a time: probes can neither flood nor hang the store."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[dict[str, str]] | None = None
        self._started = 0.0

    async def checks(self) -> dict[str, str]:
        """`ok` or a sentence for each of store, inbox, worker and fetcher."""
        fresh = time.monotonic() - self._started < CACHE_SECONDS
        if self._task is None or (self._task.done() and not fresh):
            self._started = time.monotonic()
            self._task = asyncio.create_task(in_probe_thread(check_all, self._service))
        done, _ = await asyncio.wait({self._task}, timeout=PATIENCE_SECONDS)
        return (
            self._task.result()
            if done
            else _unanswered(f"the store did not answer within {PATIENCE_SECONDS:g} s.")
        )


def check_all(service: Service) -> dict[str, str]:
    """Writes to the store, lists the inbox, and looks for live workers and fetchers; blocking."""
    try:
        service.store.check()
    except StoreError as error:
        return _unanswered(f"the store cannot be written: {error}")
    return {
        "store": "ok",
        "inbox": _check_inbox(service),
        "runs": _check_runs(service),
        "worker": _check_worker(service),
        "fetcher": _check_fetcher(service),
    }


def _check_inbox(service: Service) -> str:
    try:
        service.store.list(keys.INBOX, limit=1)
    except StoreError as error:
        return f"the inbox cannot be listed: {error}"
    return "ok"


def _check_runs(service: Service) -> str:
    try:
        drain = read_drain(service.store, datetime.now(UTC))
    except StoreError as error:
        return f"whether the service is drained cannot be read: {error}"
    if drain is None:
        return "ok"
    return f"drained by an operator until {drain.until:%H:%M} UTC; jobs are accepted and wait."


def _check_worker(service: Service) -> str:
    """A worker with a problem does not count.

    Its problem is reported until another worker lives.
    """
    silence = service.settings.worker_stale_seconds
    try:
        heartbeats = all_workers(service.store)
    except StoreError as error:
        return f"the workers' heartbeats cannot be read: {error}"
    live = [heartbeat for heartbeat in heartbeats if heartbeat.is_live(datetime.now(UTC), silence)]
    if any(heartbeat.problem is None for heartbeat in live):
        return "ok"
    if problems := [heartbeat for heartbeat in live or heartbeats if heartbeat.problem]:
        latest = max(problems, key=lambda heartbeat: heartbeat.beat_at)
        return f"no worker can work: {latest.problem}; jobs are accepted and wait."
    return f"no worker has given a sign of life for {silence:g} s; jobs are accepted and wait."


def _check_fetcher(service: Service) -> str:
    """Uploads need no fetcher, so its absence counts only if there is something to fetch."""
    silence = service.settings.worker_stale_seconds
    try:
        if not service.store.list(keys.FETCHING, limit=1) or live_fetchers(
            service.store, stale_seconds=silence
        ):
            return "ok"
    except StoreError as error:
        return f"the fetchers' heartbeats cannot be read: {error}"
    return (
        f"no fetcher has given a sign of life for {silence:g} s; jobs with an image_url are"
        " accepted and wait."
    )


def _unanswered(sentence: str) -> dict[str, str]:
    unknown = dict.fromkeys(
        ("inbox", "runs", "worker", "fetcher"), "not checked without the store."
    )
    return {"store": sentence, **unknown}
