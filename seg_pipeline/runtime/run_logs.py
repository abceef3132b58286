"""Keeps a run's output and logs for its page in Dagster's UI; `dagster.yaml` names `RunLogs`.

Dagster's own capture redirects file descriptors and starts four processes for each run. Here the
process that executes the run copies what its Python code writes. What a C library writes past
Python is only in the process's log.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, TextIO, cast

from dagster._core.storage.compute_log_manager import (
    CapturedLogContext,
    ComputeIOType,
    ComputeLogManager,
)
from dagster._core.storage.local_compute_log_manager import (
    IO_TYPE_EXTENSION,
    LocalComputeLogManager,
)
from dagster._serdes import ConfigurableClassData

from seg_pipeline.settings import get_settings
from seg_pipeline.store import keys
from seg_pipeline.telemetry.logs import lines_also_to

STDOUT, STDERR = (IO_TYPE_EXTENSION[kind] for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR))


class CopyingLogManager(LocalComputeLogManager):
    """Dagster's manager of log files, which copies instead of redirecting, and only for runs."""

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Copies what this process writes in the block into the run's files."""
        path = Path(self.get_captured_local_path(log_key, STDERR))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with copied_to(path.with_suffix(f".{STDOUT}"), path):
                yield CapturedLogContext(log_key)
        finally:
            Path(self.complete_artifact_path(log_key)).touch()

    @contextmanager
    def open_log_stream(  # type: ignore[override]  # text, as its parent gives
        self, log_key: Sequence[str], io_type: ComputeIOType
    ) -> Iterator[IO[str] | None]:
        """Yields no stream: a sensor opens one at every tick, and uses none."""
        yield None


class RunLogs(CopyingLogManager):
    """In the store's folder, or in its bucket."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """An empty schema: `Settings` configures it."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster asks for a manager, not for this one
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ComputeLogManager[Any]:
        """Builds it from dagster.yaml, as Dagster does; with a bucket, another class."""
        settings = get_settings()
        if settings.s3_bucket:
            from seg_pipeline.runtime.bucket_run_logs import BucketRunLogs

            return BucketRunLogs(settings, inst_data)
        folder = settings.data_dir.absolute() / "state" / keys.RUN_LOGS
        return cls(str(folder), inst_data=inst_data)


@contextmanager
def copied_to(stdout: Path, stderr: Path) -> Iterator[None]:
    """Copies this process's prints into one file, and its log lines into the other."""
    with (
        stdout.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as printed,
        stderr.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as logged,
        redirect_stdout(cast(TextIO, _Tee(sys.stdout, printed))),
        redirect_stderr(cast(TextIO, _Tee(sys.stderr, logged))),
        lines_also_to(logged),
    ):
        yield


class _Tee:
    """A text stream that also writes its text to a second one."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._first, self._second = first, second

    def write(self, text: str) -> int:
        if not self._second.closed:  # a thread that outlives its run may hold this stream
            self._second.write(text)
        return self._first.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)
