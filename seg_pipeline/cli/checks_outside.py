"""Checks of what the service stands on: disk, store, clock, servers, queue and app server."""

import secrets
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta

from seg_pipeline.cli.checks_here import Wrong
from seg_pipeline.cli.masking import shown_address
from seg_pipeline.errors import QueueUnavailable, StoreError
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline.store.format import refuse_newer
from seg_pipeline.store.private_folder import make_private

SERVER_SECONDS = 30.0
ANSWER_SECONDS = 5.0
MAX_SKEW = timedelta(seconds=5)
"""The service compares its clock with the times in the store; S3 gives whole seconds."""


def check_data_dir(settings: Settings) -> str:
    """Whether DATA_DIR takes files, and has more than MIN_FREE_BYTES left."""
    folder = settings.data_dir
    try:
        make_private(folder)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise Wrong(f"{folder} cannot be written ({error.strerror}); set DATA_DIR.") from error
    if free <= settings.min_free_bytes:
        raise Wrong(
            f"{folder} has {_mib(free)} free, and MIN_FREE_BYTES is"
            f" {_mib(settings.min_free_bytes)}, so uploads get 503; make room or lower it."
        )
    return f"{folder} can be written, with {_mib(free)} free."


def check_store(settings: Settings) -> str:
    """Whether the store lets us write, read, list and delete, and keeps its promises."""
    try:
        store = open_store(settings)
        refuse_newer(store)
        store.check()
        store.list(keys.CHECKS, limit=1)
    except StoreError as error:
        remedy = "set S3_BUCKET and what it needs" if settings.s3_bucket else "set DATA_DIR"
        raise Wrong(f"{str(error).rstrip('.')}; {remedy}.") from error
    return f"{_place(settings)} can be written, read, listed and deleted from."


def check_clock(settings: Settings) -> str:
    """Whether this machine's clock agrees with the store's."""
    try:
        skew = clock_skew(open_store(settings))
    except StoreError as error:
        raise Wrong("the store's time is unknown; mend the store first.") from error
    if abs(skew) > MAX_SKEW:
        direction = "behind" if skew > timedelta() else "ahead of"
        raise Wrong(
            f"this machine's clock is {abs(skew).total_seconds():.0f} s {direction} the store's;"
            " set it by NTP."
        )
    return "this machine's clock agrees with the store's."


def clock_skew(store: Store) -> timedelta:
    """The store's time less this machine's, by the time of an object that is written now.

    It is zero if the object's time lies between the request and its answer.
    """
    key = f"{keys.CHECKS}{secrets.token_hex(8)}"
    asked = datetime.now(UTC)
    try:
        store.put(key, b"")
        answered, written = datetime.now(UTC), store.head(key)
    finally:
        store.delete(key)
    return skew(asked, answered, written.last_modified) if written else timedelta()


def skew(asked: datetime, answered: datetime, written: datetime) -> timedelta:
    """How far a time lies after an answer (positive) or before a request (negative)."""
    return max(written - answered, timedelta()) + min(written - asked, timedelta())


def check_server(name: str) -> str:
    """Whether the `broker` or the `database` lets us in, tried by a process of its own."""
    command = [sys.executable, "-m", "seg_pipeline.runtime.reaching", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SERVER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Wrong(
            f"the {name} gave no answer within {SERVER_SECONDS:g} s; look whether it is in reach."
        ) from error
    if done.returncode:
        raise Wrong(done.stderr.strip().splitlines()[-1])
    return f"the {name} lets us in."


def check_queue(settings: Settings) -> str:
    """Whether the queue answers our credentials. It takes no message."""
    from seg_pipeline.adapters.sqs_consumer import SqsConsumer
    from seg_pipeline.jobs.repository import JobRepository

    repository = JobRepository(open_store(settings))
    try:
        waiting = SqsConsumer(settings, repository, ANSWER_SECONDS).waiting()
    except QueueUnavailable as error:
        raise Wrong(
            f"{str(error).rstrip('.')}; look at SQS_QUEUE_URL, AWS_REGION and the credentials,"
            " which need sqs:GetQueueAttributes, ReceiveMessage and DeleteMessage."
        ) from error
    return f"the queue answers; about {waiting} messages wait."


def check_app_server(url: str) -> str:
    """Whether the app server answers at all, with whatever status."""
    from seg_pipeline.adapters.app_server import status_of

    try:
        return f"{shown_address(url)} answers ({status_of(url, ANSWER_SECONDS)})."
    except OSError as error:
        raise Wrong(
            f"{shown_address(url)} does not answer ({error}); start it, or set APP_SERVER_URL."
        ) from error


def _place(settings: Settings) -> str:
    return f"bucket {settings.s3_bucket}" if settings.s3_bucket else str(settings.data_dir)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
