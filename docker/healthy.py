"""Ends with 0 if this container is well: `healthy.py URL` asks its service, `healthy.py worker` or
`fetcher` looks for its heartbeat.

A service that is not ends it with 1 and a line.
"""

import socket
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime

TIMEOUT_SECONDS = 4


def main(what: str) -> None:
    """Looks once."""
    failure = beat_failure(what) if what in ("worker", "fetcher") else http_failure(what)
    if failure:
        sys.exit(failure)


def http_failure(url: str) -> str | None:
    """Why it is not well, or None."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"{url}: {error.code} {error.read(500).decode(errors='replace')}"
    except OSError as error:
        return f"{url}: {error}"


def beat_failure(what: str) -> str | None:
    """Why this host's worker or fetcher is not well, or None. Raises StoreError if the store is
    away."""
    from seg_pipeline.jobs.heartbeats import live_fetchers, live_workers
    from seg_pipeline.settings import get_settings
    from seg_pipeline.store import open_store

    settings, host = get_settings(), socket.gethostname()
    live = live_workers if what == "worker" else live_fetchers
    beats = live(open_store(settings), datetime.now(UTC), settings.worker_stale_seconds)
    hosts = {heartbeat.host for heartbeat in beats}
    return None if host in hosts else f"no {what} of {host} has beaten of late"


if __name__ == "__main__":
    main(sys.argv[1])
