"""`seg-pipeline jobs`, `show`, `parked` and `open`, asked of a served API."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from seg_pipeline.cli.jobs import aligned, counted, open_asked, pages_of, print_parked
from seg_pipeline.errors import TruncatedImage
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.api.serving import api_settings
from seg_pipeline_tests.api.serving import serving as serving_api
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import picture_bytes
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.jobs.test_parked import park_callback, park_message
from seg_pipeline_tests.serving import serving

pytestmark = pytest.mark.process

CLI = (sys.executable, "-m", "seg_pipeline.cli")


@pytest.fixture
def url(tmp_path: Path, store: Store) -> Iterator[str]:
    """An API with a job that waits, one that is completed and one that failed."""
    with serving_api(api_settings(tmp_path, api_keys="shop:key"), store) as address:
        for uuid in ("waiting", "done", "broken"):
            httpx.post(
                f"{address}/jobs?uuid={uuid}",
                files={"image": picture_bytes()},
                headers={"x-api-key": "key"},
            ).raise_for_status()
        finish_job(store, "done", DRAWING)
        finish_job(store, "broken", error=TruncatedImage("the picture ends too early."))
        yield address


def command(
    folder: Path, *arguments: str, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, without a display; `given` is what comes by a pipe."""
    return subprocess.run(
        [*CLI, *arguments], cwd=folder, timeout=120,
        env=inherited() | environment, capture_output=True, text=True, check=False,
        input=given,
    )  # fmt: skip


def inherited() -> dict[str, str]:
    """What a command needs of this process' environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME")}


@contextmanager
def lines_of(folder: Path, *arguments: str) -> Iterator[Iterator[str]]:
    """The lines of the command as it prints them."""
    with subprocess.Popen(
        [*CLI, *arguments], cwd=folder, env=inherited(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.kill()


def test_jobs_are_listed_and_chosen_by_status(tmp_path: Path, url: str) -> None:
    where = ("--server", url, "--api-key", "key")
    done = command(tmp_path, "jobs", *where)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["uuid", "status", "since"]
    assert [row[:2] for row in rows[1:]] == [
        ["waiting", "queued"], ["broken", "failed"], ["done", "completed"],
    ]  # fmt: skip
    failed = command(tmp_path, "jobs", "--status", "failed", "--json", *where)
    assert [job["uuid"] for job in json.loads(failed.stdout)["jobs"]] == ["broken"]
    first = command(tmp_path, "jobs", "--limit", "1", *where)
    assert "There are more" in first.stderr


def test_the_service_of_this_machine_is_asked_with_its_own_key(tmp_path: Path, url: str) -> None:
    here = {"API_PORT": url.rpartition(":")[2], "API_KEYS": "shop:key"}
    done = command(tmp_path, "show", "broken", **here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "truncated_image: the picture ends too early." in done.stdout
    whole = json.loads(command(tmp_path, "show", "done", "--json", **here).stdout)
    assert (whole["status"], len(whole["segments"])) == ("completed", 1)
    assert "segments" in command(tmp_path, "show", "done", **here).stdout


def test_failed_jobs_are_run_again_and_others_refused(tmp_path: Path, url: str) -> None:
    where = ("--server", url, "--api-key", "key")
    done = command(tmp_path, "retry", "broken", "done", *where)
    assert done.returncode == 1
    assert done.stdout == "broken  queued\n"
    assert done.stderr == "done  job done is completed; only a failed job can be run again.\n"
    assert "queued" in command(tmp_path, "show", "broken", *where).stdout
    assert command(tmp_path, "retry", "../x", *where).returncode == 2


def test_open_opens_the_overlay_where_there_is_a_display(tmp_path: Path, url: str) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)
    here = {
        "API_PORT": url.rpartition(":")[2], "API_KEYS": "key", "BROWSER": str(browser),
        "DAGSTER_PORT": "3456",
    }  # fmt: skip
    printed = command(tmp_path, "open", "done", **here)
    assert (printed.returncode, (tmp_path / "opened").exists()) == (0, False)
    overlay, page, dagster = (line.split()[1] for line in printed.stdout.splitlines())
    assert (overlay, page) == (f"{url}/assets/done/overlay.webp", f"{url}/#done")
    assert dagster == "http://127.0.0.1:3456/assets/result?view=partitions&partition=done"
    command(tmp_path, "open", "done", DISPLAY=":0", **here)
    assert (tmp_path / "opened").read_text().strip() == overlay


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("show", "nobody"), 1, "nobody"),
        (("show", "../parked"), 2, "must be 1 to 64 letters"),
        (("open", "nobody"), 1, "nobody"),
        (("jobs", "--status", "asleep"), 2, "asleep"),
        (("parked", "--server", "localhost"), 2, "begins with http:// or https://"),
        (("jobs", "--server", "http://127.0.0.1:9"), 1, "did not answer"),
    ],
)
def test_a_mistake_is_one_sentence_and_its_exit_code(
    tmp_path: Path, url: str, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    here = {"API_PORT": url.rpartition(":")[2], "API_KEYS": "key"}
    done = command(tmp_path, *arguments, **here)
    assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (
        exit_code, True, False,
    ), done.stderr  # fmt: skip


def test_a_key_of_ours_is_not_told_to_other_servers(tmp_path: Path, url: str) -> None:
    done = command(tmp_path, "jobs", "--server", url, API_KEYS="key")
    assert (done.returncode, "key" in done.stderr) == (1, True)


def test_what_is_parked_is_listed_with_its_reason(tmp_path: Path, store: Store, url: str) -> None:
    said: list[str] = []
    complained: list[str] = []
    with open_asked(url, "key", make_settings(tmp_path)) as service:
        print_parked(service, 50, False, said.append, complained.append)
        assert (said, complained) == ([], ["There is none."])
        park_message(store, reason="no \x1b[31mJSON")
        park_callback(store)
        print_parked(service, 50, False, said.append, complained.append)
    assert [line.split()[0] for line in said] == ["name", "callback-job-1", "m-1"]
    assert said[2].endswith("no  [31mJSON")


def test_a_waiting_job_has_a_page_and_no_overlay(tmp_path: Path, url: str) -> None:
    with open_asked(f"{url}/", "key", make_settings(tmp_path)) as service:
        assert pages_of(service, "waiting") == {"page": f"{url}/#waiting"}


def test_another_server_is_told_from_this_service(tmp_path: Path) -> None:
    def other(_: object, start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"[]"]

    with serving(other) as address:
        done = command(tmp_path, "jobs", "--server", address)
    assert (done.returncode, "is no such service" in done.stderr) == (1, True)


def test_columns_stand_below_one_another() -> None:
    assert list(aligned([("a", "b"), ("long", "c")])) == ["a     b", "long  c"]
    segments = [{"label": "circle"}, {"label": "square"}, {"label": "circle"}]
    assert counted(segments) == "3 (2 circle, 1 square)"
    assert counted([{"label": None}]) == "1"


def test_a_job_is_cancelled_and_one_that_has_ended_is_not(tmp_path: Path, url: str) -> None:
    where = ("--server", url, "--api-key", "key")
    cancelled = command(tmp_path, "cancel", "waiting", *where)
    ended = command(tmp_path, "cancel", "done", *where)
    assert (cancelled.returncode, cancelled.stdout) == (0, "waiting is cancelled.\n")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "job done has completed already" in ended.stderr


def test_a_job_is_followed_to_its_end(tmp_path: Path, url: str, store: Store) -> None:
    """Each line is there when the state is, also in a pipe."""
    where = ("--server", url, "--api-key", "key")
    with lines_of(tmp_path, "show", "--follow", "waiting", *where) as lines:
        assert next(lines).split()[1] == "queued"
        note = Progress("segments", datetime.now(UTC), 128, 1024)
        store.put(keys.progress("waiting"), write(note))
        under_way = next(lines)
        assert under_way.split()[1] == "processing"
        assert "segments  128 of 1024 points" in under_way
        finish_job(store, "waiting", DRAWING)
        ended = next(lines)
        assert ended.split()[1] == "completed"
        assert ended.rstrip().endswith("1 segments")
        assert "status" in "".join(lines)
