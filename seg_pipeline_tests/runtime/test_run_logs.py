"""What a run prints and logs can be read afterwards, by whoever shows it, and costs no process."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster._core.storage.compute_log_manager import ComputeIOType, ComputeLogManager

from seg_pipeline.runtime import bucket_run_logs
from seg_pipeline.runtime.bucket_run_logs import BucketRunLogs
from seg_pipeline.runtime.run_logs import RunLogs
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.conftest import make_settings

Manager = ComputeLogManager[Any]
KEY = ["0f1e2d3c-run", "compute_logs", "abcdefgh"]

logger = logging.getLogger("seg_pipeline.test")


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of either profile."""
    settings: Settings = request.getfixturevalue(f"{request.param}_settings")
    return settings


@pytest.fixture
def open_manager(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Manager]:
    """Makes the manager that Dagster would, another one at each call."""
    monkeypatch.setattr("seg_pipeline.runtime.run_logs.get_settings", lambda: settings)
    return lambda: RunLogs.from_config_value(None, {})


def write_some(manager: Manager, key: list[str] = KEY) -> None:
    """A run that prints, logs and warns; returns when all of it is where it will be read."""
    with manager.capture_logs(key):
        print("printed")
        logger.warning("logged")
        print("complained", file=sys.stderr)
    manager.dispose()


def fail(manager: Manager) -> None:
    """A run that logs, and fails."""
    with manager.capture_logs(KEY):
        logger.warning("logged")
        raise ZeroDivisionError


def test_what_was_written_during_a_run_is_read_by_another_process(
    open_manager: Callable[[], Manager],
) -> None:
    write_some(open_manager())
    logger.warning("logged too late")
    reader = open_manager()
    data = reader.get_log_data(KEY)
    assert data.stdout == b"printed\n"
    assert re.fullmatch(rb"[^\n]*logged\ncomplained\n", data.stderr or b"")
    assert reader.is_capture_complete(KEY)


def test_who_has_read_a_part_gets_the_rest(open_manager: Callable[[], Manager]) -> None:
    write_some(open_manager())
    reader = open_manager()
    kind = ComputeIOType.STDOUT
    assert reader.get_log_data_for_type(KEY, kind, 0, 5) == (b"print", 5)
    assert reader.get_log_data_for_type(KEY, kind, 5, None) == (b"ed\n", 8)
    assert (reader.get_log_data_for_type(KEY, kind, 8, None)[0] or b"") == b""


def test_a_run_that_has_written_nothing_is_known_to_have_ended(
    open_manager: Callable[[], Manager],
) -> None:
    manager = open_manager()
    assert not manager.is_capture_complete(KEY)
    with manager.capture_logs(KEY):
        pass
    manager.dispose()
    assert open_manager().is_capture_complete(KEY)


def test_what_is_written_still_reaches_the_process_s_own_streams(
    open_manager: Callable[[], Manager], capsys: pytest.CaptureFixture[str]
) -> None:
    write_some(open_manager())
    assert capsys.readouterr() == ("printed\n", "complained\n")


def test_a_run_that_fails_has_its_log_and_its_error(open_manager: Callable[[], Manager]) -> None:
    manager = open_manager()
    with pytest.raises(ZeroDivisionError):
        fail(manager)
    manager.dispose()
    assert b"logged\n" in (open_manager().get_log_data(KEY).stderr or b"")


def test_no_process_is_started_for_a_run(open_manager: Callable[[], Manager]) -> None:
    """Dagster's own managers start four."""
    manager, before = open_manager(), psutil.Process().children()
    with manager.capture_logs(KEY):
        assert psutil.Process().children() == before
    manager.dispose()


def test_a_sensor_s_tick_leaves_no_file(
    open_manager: Callable[[], Manager], settings: Settings
) -> None:
    with open_manager().open_log_stream(["tick"], ComputeIOType.STDERR) as stream:
        assert stream is None
    assert not [*settings.data_dir.rglob("*.err")]


def test_the_prune_finds_a_run_s_log_in_the_store(
    open_manager: Callable[[], Manager], settings: Settings
) -> None:
    write_some(open_manager())
    store = open_store(settings)
    assert {info.key.rpartition(".")[0] for info in store.list("run-logs/")} == {
        f"run-logs/{'/'.join(KEY)}"
    }
    store.delete_folder(f"run-logs/{KEY[0]}/")
    assert open_manager().get_log_data(KEY).stderr is None


# --- in a bucket --------------------------------------------------------------------------------


def test_nothing_stays_on_the_worker_s_disk(bucket_settings: Settings) -> None:
    write_some(BucketRunLogs(bucket_settings))
    assert [path for path in bucket_settings.data_dir.rglob("*") if KEY[0] in path.name] == []


def test_a_bucket_that_is_away_costs_the_log_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"s3_access_key": "test", "s3_secret_key": "test"}
    nowhere = make_settings(tmp_path, s3_bucket="b", s3_endpoint_url="http://127.0.0.1:9", **keys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it retries
        write_some(BucketRunLogs(nowhere))
    assert f"the log of run {KEY[0]} could not be uploaded" in caplog.text
    assert [path for path in tmp_path.rglob("*") if KEY[0] in path.name] == []


def test_an_upload_that_fails_in_a_way_nobody_foresaw_costs_its_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = BucketRunLogs(make_settings(tmp_path, s3_bucket="b"))
    uploaded: list[str] = []

    def upload(log_key: list[str], _: object) -> None:
        uploaded.append(log_key[0])
        if log_key[0] == "run-1":
            raise RuntimeError("a fault of ours")

    monkeypatch.setattr(logs, "upload_to_cloud_storage", upload)
    for run_id in ("run-1", "run-2"):
        logs._uploads.add([run_id, "compute_logs", "x"])
    logs.dispose()
    assert uploaded == ["run-1", "run-2", "run-2"]
    assert "the log of run run-1 could not be uploaded" in caplog.text


def test_logs_that_come_quicker_than_they_are_uploaded_are_left_out(
    bucket_settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = BucketRunLogs(bucket_settings)
    monkeypatch.setattr(bucket_run_logs, "WAITING_UPLOADS", 1)
    uploads = bucket_run_logs._Uploads(lambda _: None, lambda: iter(()))
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    monkeypatch.setattr(manager, "_uploads", uploads)
    for run_id in ("first", "second"):
        with manager.capture_logs([run_id, *KEY[1:]]):
            pass
    assert "the log of run second is not uploaded" in caplog.text
    assert [path.name for path in bucket_settings.data_dir.rglob("second")] == []


def test_the_log_of_a_run_that_killed_its_worker_is_uploaded_by_the_next(
    bucket_settings: Settings,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for run_id, pid in (("lethal", ended.pid), ("living", os.getppid())):
        folder = bucket_settings.data_dir / "run-logs" / f"{socket.gethostname()}-{pid}" / run_id
        (folder / "compute_logs").mkdir(parents=True)
        (folder / "compute_logs" / "abcdefgh.err").write_text("last words\n")
    write_some(BucketRunLogs(bucket_settings))
    reader = BucketRunLogs(bucket_settings)
    assert reader.get_log_data(["lethal", *KEY[1:]]).stderr == b"last words\n"
    assert not reader.is_capture_complete(["living", *KEY[1:]])


def test_a_bucket_that_hangs_holds_no_worker_up_at_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it did not get lies on disk, and the next worker uploads it."""
    monkeypatch.setattr(bucket_run_logs, "FINISH_SECONDS", 0.05)
    hangs = threading.Event()

    def upload(_: object) -> None:
        hangs.wait(30)

    uploads = bucket_run_logs._Uploads(upload, lambda: iter(()))
    assert uploads.add(["run-1"])
    uploads.finish()
    assert "left to the next worker" in caplog.text
    hangs.set()
