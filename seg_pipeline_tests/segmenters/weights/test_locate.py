from pathlib import Path

import pytest

from seg_pipeline.errors import WeightsMissing
from seg_pipeline.segmenters.weights import locate
from seg_pipeline.segmenters.weights.locate import find_weights
from seg_pipeline_tests.segmenters.file_hosts import (
    NAME,
    FileHost,
    fetch,
    leftovers,
    make_checkpoint,
    make_settings,
    serving,
)


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


def test_a_file_that_is_not_published_is_missing_at_once(host: FileHost, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    host.statuses = [404]
    with pytest.raises(
        WeightsMissing, match=r"downloading them from \S+ failed \(HTTP 404\); put the file there"
    ):
        fetch(host, settings)
    assert host.ranges == [None]
    assert leftovers(settings) == set()


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
