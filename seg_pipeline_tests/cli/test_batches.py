"""`seg-pipeline batch`, asked of a served API whose batches a stand-in advances."""

import json
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from seg_pipeline.cli.batches import progress
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import api_settings
from seg_pipeline_tests.api.serving import serving as serving_api
from seg_pipeline_tests.builders import picture_bytes
from seg_pipeline_tests.cli.test_jobs import command
from seg_pipeline_tests.client.test_batches import ADDRESSES, working

pytestmark = pytest.mark.process


@pytest.fixture
def url(tmp_path: Path, store: Store) -> Iterator[str]:
    """An API on which nobody works yet."""
    with serving_api(api_settings(tmp_path, s3_sources=""), store) as address:
        yield address


def test_a_list_ends_as_one_file(tmp_path: Path, url: str, store: Store) -> None:
    (tmp_path / "addresses.txt").write_text("\n".join([*ADDRESSES, "hello"]))
    with working(store):
        done = command(
            *(tmp_path, "batch", "create", "addresses.txt", "--wait", "--coco", "found.json"),
            *("--uuid", "summer", "--server", url),
        )
    assert done.returncode == 0, done.stderr
    assert "3 of 3" in done.stderr
    assert "status     completed" in done.stdout
    assert "line 4: image_url 'hello' must begin with" in done.stdout
    document = json.loads((tmp_path / "found.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ADDRESSES


def test_a_list_comes_by_a_pipe(tmp_path: Path, url: str) -> None:
    lines = "\n".join(ADDRESSES)
    done = command(tmp_path, "batch", "create", "-", "--server", url, "--json", given=lines)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"] == len(ADDRESSES)


def test_a_folder_is_sent_as_its_pictures(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "notes.txt"):
        (folder / name).write_bytes(picture_bytes())
    options = ("--uuid", "summer", "--parameters", '{"confidence": 0.5}', "--server", url, "--json")
    created = command(tmp_path, "batch", "create", "photos", *options)
    assert created.returncode == 0, created.stderr
    assert json.loads(created.stdout)["total"] == 2


def test_what_failed_is_shown_with_its_reason(tmp_path: Path, url: str, store: Store) -> None:
    (tmp_path / "addresses.jsonl").write_text("\n".join(map(json.dumps, ADDRESSES)))
    with working(store, failing="batch-summer-000001"):
        done = command(
            *(tmp_path, "batch", "create", "addresses.jsonl", "--wait", "--uuid", "summer"),
            *("--server", url),
        )
    assert done.returncode == 1
    shown = command(tmp_path, "batch", "show", "summer", "--failed", "--server", url)
    assert f"{ADDRESSES[1]}  batch-summer-000001  This is a text." in shown.stdout
    saved = command(tmp_path, "batch", "coco", "summer", "found.json", "--server", url)
    assert saved.stdout == "found.json is written.\n"
    deleted = command(tmp_path, "batch", "cancel", "summer", "--server", url)
    assert deleted.stdout == "summer is deleted.\n"


def test_a_zip_goes_as_it_is_and_a_batch_is_cancelled(tmp_path: Path, url: str) -> None:
    with ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", picture_bytes())
    created = command(
        tmp_path, "batch", "create", "photos.zip", "--uuid", "summer", "--server", url
    )
    assert created.returncode == 0, created.stderr
    cancelled = command(tmp_path, "batch", "cancel", "summer", "--server", url)
    assert "is cancelled" in cancelled.stdout


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("nowhere", 2, "nowhere is no list, no folder, no ZIP and no s3:// prefix."),
        ("s3://pictures/", 1, "S3_SOURCES"),
        ("s3://pictures/ --webhook https://hooks.example.com/", 1, "WEBHOOK_HOSTS is not set"),
    ],
)
def test_what_cannot_be_sent_is_one_line(
    tmp_path: Path, url: str, source: str, code: int, said: str
) -> None:
    done = command(tmp_path, "batch", "create", *source.split(), "--server", url)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_batch_that_is_not_there_is_one_line(tmp_path: Path, url: str) -> None:
    shown = command(tmp_path, "batch", "show", "summer", "--server", url)
    assert shown.returncode == 1
    assert "batch summer does not exist" in shown.stderr


def test_progress_says_what_is_left() -> None:
    counts = {"completed": 3, "failed": 1, "cancelled": 0}
    batch = {"counts": counts, "total": 10, "eta_seconds": 12.4}
    assert progress(batch) == "4 of 10, 1 failed, 12 s left"
