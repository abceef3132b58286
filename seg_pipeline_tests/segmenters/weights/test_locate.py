import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.errors import WeightsMissing
from seg_pipeline.segmenters.weights import download, locate
from seg_pipeline.segmenters.weights import published as published_weights
from seg_pipeline.segmenters.weights.digest import weights_sha256
from seg_pipeline.segmenters.weights.locate import find_weights
from seg_pipeline.settings import Settings
from seg_pipeline_tests.segmenters.file_hosts import NAME, FileHost, make_checkpoint, serving


@pytest.fixture
def host() -> Iterator[FileHost]:
    with serving(make_checkpoint()) as host:
        yield host


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.01, 0.01, 0.01))


def make_settings(folder: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, weights_dir=folder / "weights", **values)


def fetch(host: FileHost, settings: Settings) -> Path:
    return find_weights(NAME, settings, url_of=lambda _name: host.url)


def leftovers(settings: Settings) -> set[str]:
    return {path.name for path in settings.weights_dir.iterdir()} - {f"{NAME}.pt.lock"}


def test_the_demo_model_is_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "BUNDLED", tmp_path)
    (tmp_path / "demo-yolo.pt").write_bytes(b"weights")
    assert find_weights("demo-yolo", make_settings(tmp_path)) == tmp_path / "demo-yolo.pt"


def test_a_file_in_the_weights_folder_is_taken_without_a_download(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.weights_dir.mkdir()
    (settings.weights_dir / f"{NAME}.pt").write_bytes(b"the operator's own")
    assert find_weights(NAME, settings, url_of=None) == settings.weights_dir / f"{NAME}.pt"  # type: ignore[arg-type]


def test_the_operator_may_name_a_path(tmp_path: Path) -> None:
    own = tmp_path / "my own.pt"
    own.write_bytes(b"weights")
    assert find_weights(str(own), make_settings(tmp_path, model=str(own))) == own


def test_a_path_that_the_operator_named_and_that_is_not_there_is_missing(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pt")
    with pytest.raises(WeightsMissing, match=r"gone\.pt are not there; name an existing \.pt file"):
        find_weights(gone, make_settings(tmp_path, model=gone))


def test_nobody_else_may_name_a_path(tmp_path: Path) -> None:
    """A request that names a file of the server must not have it opened: a .pt file is a pickle."""
    foreign = tmp_path / "foreign.pt"
    foreign.write_bytes(b"weights")
    for name in (str(foreign), "../foreign", "foreign.pt"):
        with pytest.raises(WeightsMissing, match="paths come from the settings"):
            find_weights(name, make_settings(tmp_path))


def test_a_job_downloads_nothing_and_its_error_shows_no_folder(tmp_path: Path) -> None:
    """A worker that downloads keeps every other job waiting; where it looked is for the log."""
    with pytest.raises(WeightsMissing, match="seg-pipeline weights pull yolov8n-seg") as refusal:
        locate.locate_weights("yolov8n-seg", make_settings(tmp_path, models="yolov8n-seg"))
    own = str(tmp_path / "own.pt")
    with pytest.raises(WeightsMissing, match=r"the weights own\.pt are not there") as of_a_path:
        locate.locate_weights(own, make_settings(tmp_path, models=own))
    assert str(tmp_path) not in f"{refusal.value} {of_a_path.value}"


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


def test_a_published_name_may_be_spelled_as_its_file(host: FileHost, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, model=f"{NAME}.pt")
    path = find_weights(
        f"{NAME}.pt", settings, url_of=lambda name: host.url if name == NAME else None
    )
    assert path == settings.weights_dir / f"{NAME}.pt"


def test_a_file_that_has_changed_since_its_download_is_refused(
    host: FileHost, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path)
    path = fetch(host, settings)
    path.write_bytes(make_checkpoint(seed=1))
    with pytest.raises(
        WeightsMissing, match=r"SHA-256 differs from yolov8n-seg\.pt\.sha256; delete both"
    ):
        fetch(host, settings)


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


def test_a_file_that_is_not_published_is_missing_at_once(host: FileHost, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    host.statuses = [404]
    with pytest.raises(
        WeightsMissing, match=r"downloading them from \S+ failed \(HTTP 404\); put the file there"
    ):
        fetch(host, settings)
    assert host.ranges == [None]
    assert leftovers(settings) == set()


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


def test_without_a_network_the_sentence_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with serving(b"") as host:
        pass
    settings = make_settings(tmp_path)
    with pytest.raises(WeightsMissing) as failure:
        fetch(host, settings)
    sentence = str(failure.value)
    assert f"the weights of {NAME} are not at {settings.weights_dir / NAME}.pt" in sentence
    assert "demo-yolo" in sentence
    assert "put the file there" in sentence
    assert failure.value.permanent


def test_a_name_that_nobody_publishes_is_missing_without_asking_the_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="nobody publishes weights under this name"):
        find_weights("yolov8q-seg", make_settings(tmp_path))


def test_progress_is_logged_to_the_end(
    host: FileHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="seg_pipeline"):
        fetch(host, make_settings(tmp_path))
    assert f"downloading {NAME}: 3 of 3 MB" in caplog.text


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


def test_the_hash_is_computed_once_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert weights_sha256(file) == weights_sha256(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert weights_sha256(file) == hashlib.sha256(b"two").hexdigest()
