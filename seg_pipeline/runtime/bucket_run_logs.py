"""Keeps the output and logs of runs in the store's bucket.

It is Dagster's manager for S3, with our client, and with uploads that no run waits for.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import IO, Any

from botocore.exceptions import BotoCoreError, ClientError
from dagster._core.storage.cloud_storage_compute_log_manager import (
    PollingComputeLogSubscriptionManager,
)
from dagster._core.storage.compute_log_manager import (
    CapturedLogContext,
    ComputeIOType,
    ComputeLogManager,
)
from dagster._serdes import ConfigurableClassData
from dagster_aws.s3 import S3ComputeLogManager

from seg_pipeline.adapters.s3_client import make_s3_client
from seg_pipeline.jobs.heartbeats import is_alive
from seg_pipeline.runtime.run_logs import STDERR, CopyingLogManager
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

logger = logging.getLogger(__name__)

FINISH_SECONDS = 20.0
WAITING_UPLOADS = 256
"""While the bucket is unavailable, the logs of later runs are dropped."""


class BucketRunLogs(S3ComputeLogManager):
    """A log manager for a bucket.

    A run's files lie in DATA_DIR until they are uploaded after its end.
    """

    def __init__(self, settings: Settings, inst_data: ConfigurableClassData | None = None) -> None:
        # Not S3ComputeLogManager's own: that makes a client at once, which the code server would do
        # for each call, and knows no credentials but the environment's.
        ComputeLogManager.__init__(self)  # type: ignore[arg-type]  # upstream's class has no types
        self._truncated: set[tuple[tuple[str, ...], ComputeIOType]] = set()
        self._settings = settings
        self._inst_data = inst_data
        self._s3_bucket = str(settings.s3_bucket)
        self._staging = settings.data_dir.absolute() / keys.RUN_LOGS
        self._local_manager = CopyingLogManager(str(self._staging / process_name(os.getpid())))
        self._subscription_manager = PollingComputeLogSubscriptionManager(self)
        self._upload_interval = None
        self._uploads = _Uploads(self._upload, self._leftovers)

    @property
    def _s3_session(self) -> Any:
        return _client(self._settings)

    def _resolve_path_for_namespace(self, namespace: Sequence[str]) -> list[str]:
        return [keys.RUN_LOGS.rstrip("/"), *namespace]

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Copies what this process writes in the block, and uploads it afterwards."""
        try:
            with self.local_manager.capture_logs(log_key) as context:
                yield context
        finally:
            if not self._uploads.add(log_key):
                self._forget(log_key)

    @contextmanager
    def open_log_stream(  # type: ignore[override]  # text, as its parent gives
        self, log_key: Sequence[str], io_type: ComputeIOType
    ) -> Iterator[IO[str] | None]:
        """Yields no stream; see `CopyingLogManager`."""
        yield None

    def get_log_data_for_type(
        self, log_key: Sequence[str], io_type: ComputeIOType, offset: int, max_bytes: int | None
    ) -> tuple[bytes | None, int]:
        """Reads from the bucket. Upstream leaves a file behind in each process that reads."""
        end = "" if max_bytes is None else offset + max_bytes - 1
        try:
            found = self._s3_session.get_object(
                Bucket=self._s3_bucket,
                Key=self._s3_key(log_key, io_type),
                Range=f"bytes={offset}-{end}",
            )
        except ClientError:  # not there yet, or nothing behind the offset
            return None, offset
        data = found["Body"].read()
        return data, offset + len(data)

    def _upload_file_obj(
        self,
        data: IO[bytes],
        log_key: Sequence[str],
        io_type: ComputeIOType,
        partial: bool = False,
    ) -> None:
        """Uploads in one request; even an empty stderr, which says that the run has ended."""
        body = data.read()
        if body or io_type is ComputeIOType.STDERR:
            key = self._s3_key(log_key, io_type, partial)
            self._s3_session.put_object(
                Bucket=self._s3_bucket, Key=key, Body=body, ContentType="text/plain; charset=utf-8"
            )

    def _upload(self, log_key: Sequence[str]) -> None:
        try:
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR):
                self.upload_to_cloud_storage(log_key, kind)
        except (BotoCoreError, ClientError, OSError) as error:
            logger.warning("the log of run %s could not be uploaded: %s", log_key[0], error)
        except Exception:  # else no later log would be uploaded either
            logger.exception("the log of run %s could not be uploaded", log_key[0])
        finally:
            self._forget(log_key)

    def _forget(self, log_key: Sequence[str]) -> None:
        self.local_manager.delete_logs(prefix=log_key[:1])

    def _leftovers(self) -> Iterator[Sequence[str]]:
        """The logs of runs whose processes were killed on this host, taken over."""
        for path in self._staging.glob(f"{process_name('*')}/*/*/*.{STDERR}"):
            process, run_id, kind = path.relative_to(self._staging).parts[:3]
            if not is_alive(int(process.rpartition("-")[2])):
                own = Path(self.local_manager.get_captured_local_path([run_id], STDERR)).parent
                own.mkdir(parents=True, exist_ok=True)
                (self._staging / process / run_id).rename(own / run_id)
                yield [run_id, kind, path.stem]

    def dispose(self) -> None:
        """Returns when everything is uploaded, or when that takes too long."""
        self._uploads.finish()
        super().dispose()


class _Uploads:
    """Uploads one log after the other in a thread of its own, beginning with leftovers."""

    def __init__(
        self,
        upload: Callable[[Sequence[str]], None],
        leftovers: Callable[[], Iterator[Sequence[str]]],
    ) -> None:
        self._upload, self._leftovers = upload, leftovers
        self._waiting: Queue[Sequence[str] | None] = Queue(WAITING_UPLOADS)
        self._thread: Thread | None = None

    def add(self, log_key: Sequence[str]) -> bool:
        """Queues a log. Returns False if too many wait."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="run-logs", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(log_key)
        except Full:
            logger.warning("the log of run %s is not uploaded: too many wait", log_key[0])
            return False
        return True

    def finish(self) -> None:
        """Returns when everything that was queued is uploaded, or after FINISH_SECONDS.

        The next worker on this host uploads what is left.
        """
        if self._thread is None:
            return
        give_up_at = time.monotonic() + FINISH_SECONDS
        with suppress(Full):
            self._waiting.put(None, timeout=FINISH_SECONDS)
        self._thread.join(max(0.0, give_up_at - time.monotonic()))
        if self._thread.is_alive():
            logger.warning("logs of runs are left to the next worker: the bucket is too slow")
        self._thread = None

    def _work(self) -> None:
        try:
            for log_key in self._leftovers():
                self._upload(log_key)
        except OSError as error:
            logger.warning("logs that a killed process left stay here: %s", error)
        while (added := self._waiting.get()) is not None:
            self._upload(added)


def process_name(pid: int | str) -> str:
    """The folder of a process's files."""
    return f"{socket.gethostname()}-{pid}"


@lru_cache(maxsize=2)
def _client(settings: Settings) -> Any:
    return make_s3_client(
        settings, connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2}
    )
