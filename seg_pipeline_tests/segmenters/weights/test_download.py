"""A download is whole and the right file, or it is not there."""

import hashlib
import logging
import threading
from pathlib import Path

import pytest

from seg_pipeline.errors import WeightsMissing
from seg_pipeline.segmenters.weights import download
from seg_pipeline.segmenters.weights import published as published_weights
from seg_pipeline.telemetry.activity import ACTIVITY
from seg_pipeline_tests.segmenters.file_hosts import (
    NAME,
    FileHost,
    fetch,
    leftovers,
    make_checkpoint,
    make_settings,
    serving,
)


def test_weights_are_downloaded_once_and_their_hash_recorded(
    host: FileHost, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path)
    path = fetch(host, settings)
    assert path == settings.weights_dir / f"{NAME}.pt"
    assert path.read_bytes() == host.body
    assert fetch(host, settings) == path
    assert host.ranges == [None]
    digest = hashlib.sha256(host.body).hexdigest()
    assert (settings.weights_dir / f"{NAME}.pt.sha256").read_text() == f"{digest}  {NAME}.pt\n"
    assert leftovers(settings) == {f"{NAME}.pt", f"{NAME}.pt.sha256"}


def test_what_is_not_the_published_file_is_never_used(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers in upstream's place must not get a pickle opened."""
    settings = make_settings(tmp_path)
    published = hashlib.sha256(make_checkpoint(seed=1)).hexdigest()
    monkeypatch.setitem(published_weights.PUBLISHED_SHA256, NAME, published)
    with pytest.raises(
        WeightsMissing, match=f"SHA-256 [0-9a-f]{{64}}, not the published {published}"
    ):
        fetch(host, settings)
    assert leftovers(settings) == set()
    host.body = make_checkpoint(seed=1)
    assert fetch(host, settings).read_bytes() == host.body


def test_a_dropped_connection_is_resumed_where_it_broke(host: FileHost, tmp_path: Path) -> None:
    host.break_after = [1_200_000, 500_000]
    path = fetch(host, make_settings(tmp_path))
    assert path.read_bytes() == host.body
    assert host.ranges[0] is None
    assert len(host.ranges) == 3
    assert all(asked is not None and asked.startswith("bytes=") for asked in host.ranges[1:])


def test_a_later_start_resumes_what_an_earlier_one_left(host: FileHost, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    host.break_after = [2_000_000, 0, 0, 0]
    with pytest.raises(WeightsMissing):
        fetch(host, settings)
    assert not (settings.weights_dir / f"{NAME}.pt").exists()
    host.ranges.clear()
    assert fetch(host, settings).read_bytes() == host.body
    (asked,) = host.ranges
    assert asked is not None
    assert int(asked[6:-1]) > 1_000_000


def test_halves_of_two_versions_are_never_joined(host: FileHost, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    host.break_after = [2_000_000, 0, 0, 0]
    with pytest.raises(WeightsMissing):
        fetch(host, settings)
    host.body, host.etag = make_checkpoint(seed=7), '"second"'
    assert fetch(host, settings).read_bytes() == host.body


def test_a_server_that_ignores_ranges_gives_the_whole_again(host: FileHost, tmp_path: Path) -> None:
    host.etag = 'W/"weak"'
    host.break_after = [2_000_000]
    assert fetch(host, make_settings(tmp_path)).read_bytes() == host.body
    assert host.ranges == [None, None]


def test_a_server_that_is_busy_is_asked_again(host: FileHost, tmp_path: Path) -> None:
    host.statuses = [503, 429]
    assert fetch(host, make_settings(tmp_path)).read_bytes() == host.body


@pytest.mark.parametrize("body", [b"", b"<html>Please sign in</html>", make_checkpoint()[:-100]])
def test_what_is_no_checkpoint_is_never_used(body: bytes, tmp_path: Path) -> None:
    """A page of a hotel's network, or a file cut short whose length says nothing of it."""
    settings = make_settings(tmp_path)
    with serving(body) as host, pytest.raises(WeightsMissing, match="not a torch file"):
        fetch(host, settings)
    assert leftovers(settings) == set()


def test_a_file_past_all_bounds_is_refused(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_WEIGHTS_BYTES", 1_000_000)
    with pytest.raises(WeightsMissing, match="over the limit of 1000000"):
        fetch(host, make_settings(tmp_path))


def test_a_download_that_trickles_is_given_up_and_goes_on_the_next_time(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte comes in time for the client's own time-out, and the whole never would."""
    host.trickles = True
    settings = make_settings(tmp_path)
    with monkeypatch.context() as soon:
        soon.setattr(download, "DEADLINE_SECONDS", 0.2)
        with pytest.raises(WeightsMissing, match=r"bytes came in 0\.2 s, and not all"):
            fetch(host, settings)
    host.trickles = False
    assert fetch(host, settings).read_bytes() == host.body
    first, second = host.ranges
    assert first is None
    assert second not in (None, "bytes=0-")


def test_progress_is_logged_to_the_end(
    host: FileHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="seg_pipeline"):
        fetch(host, make_settings(tmp_path))
    assert f"downloading {NAME}: 3 of 3 MB" in caplog.text


def test_bytes_that_come_are_progress_of_the_run(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a long download would end the run that waits for it."""
    marks: list[None] = []
    monkeypatch.setattr(ACTIVITY, "mark", lambda: marks.append(None))
    fetch(host, make_settings(tmp_path))
    assert len(marks) > 1


def test_threads_that_want_the_same_weights_download_them_once(
    host: FileHost, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(host, settings))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert host.ranges == [None]
