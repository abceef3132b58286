"""`seg-pipeline segment` as people use it: the demo model, alone and by a running service."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

from seg_pipeline.cli.segment import write_whole
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.running_stack import Stack

COMMAND = [sys.executable, "-m", "seg_pipeline.cli", "segment"]
ALONE = ("--alone", "--model", "demo-yolo")

pytestmark = pytest.mark.process


def segment(
    folder: Path, *options: str | Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Runs the command in the folder to its end."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    return subprocess.run(
        [*COMMAND, *map(str, options)], cwd=folder, env=environment, input=stdin,
        capture_output=True, timeout=240, check=False,
    )  # fmt: skip


def folder_of_pictures(folder: Path) -> Path:
    """A good picture, another in a folder, and one that is broken."""
    (folder / "photos" / "more").mkdir(parents=True)
    shutil.copy(BUNDLED, folder / "photos" / "a.jpg")
    shutil.copy(BUNDLED, folder / "photos" / "more" / "b.jpg")
    (folder / "photos" / "broken.jpg").write_bytes(BUNDLED.read_bytes()[:2000])
    return folder / "photos"


def test_a_folder_is_segmented_alone_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    photos = folder_of_pictures(tmp_path)
    command = (photos, *ALONE, "--out", tmp_path / "out", "--format", "masks,coco,json", "--json")
    first = segment(tmp_path, *command)
    assert first.returncode == 1
    assert first.stderr.decode().splitlines()[-1] == "3 pictures: 2 segmented, 0 skipped, 1 failed."
    assert f"{photos / 'broken.jpg'}: " in first.stderr.decode()
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert sorted(line["status"] for line in lines) == ["completed", "completed", "failed"]
    written = tmp_path / "out" / "more" / "b.jpg.masks.zip"
    (completed,) = (line for line in lines if line.get("files", {}).get("masks") == str(written))
    assert len(ZipFile(written).namelist()) == len(completed["segments"]) > 0
    assert list((tmp_path / "out").rglob("*.part")) == []

    (photos / "broken.jpg").unlink()
    second = segment(tmp_path, *command)
    assert second.returncode == 0
    assert "--again segments them anew" in second.stderr.decode()
    assert (
        second.stderr.decode().splitlines()[-1] == "2 pictures: 0 segmented, 2 skipped, 0 failed."
    )


def test_a_picture_comes_by_a_pipe(tmp_path: Path) -> None:
    done = segment(tmp_path, "-", *ALONE, "--json", stdin=BUNDLED.read_bytes())
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["picture"] == "-"
    assert len(line["segments"]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["missing.jpg", *ALONE], "missing.jpg is no file, no folder and no address."),
        ([BUNDLED, *ALONE, "--format", "gif"], "--format 'gif' is none of json, "),
        ([BUNDLED, *ALONE, "--parameters", "{"], "--parameters is no JSON"),
        ([BUNDLED, *ALONE, "--parameters", '{"x": 1}'], "parameter 'x' is unknown"),
        ([BUNDLED, *ALONE, "--server", "http://x"], "exclude each other"),
        ([BUNDLED, *ALONE, "--out", BUNDLED], "is no folder that can be made: File exists."),
        ([BUNDLED, *ALONE, "--watch"], "--watch needs a folder"),
        ([BUNDLED, "--server", "localhost"], "begins with http:// or https://"),
    ],
)
def test_a_wrong_command_is_told_what_is_wrong(
    tmp_path: Path, options: list[str | Path], sentence: str
) -> None:
    done = segment(tmp_path, *options)
    assert (done.returncode, sentence in done.stderr.decode()) == (2, True), done.stderr


def test_a_service_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = segment(tmp_path, BUNDLED, "--server", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "the service at http://127.0.0.1:9 did not answer" in done.stderr.decode()


def test_ctrl_c_ends_it_with_whole_files_and_a_count(tmp_path: Path) -> None:
    for number in range(300):
        shutil.copy(BUNDLED, tmp_path / f"{number:03d}.jpg")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path), *ALONE, "--out", str(out), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(out.rglob("*.zip")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    written = list(out.rglob("*.zip"))
    assert len(stdout.splitlines()) == len(written)
    assert f"Interrupted; 300 pictures: {len(written)} segmented, 0 skipped, 0 failed" in stderr
    assert list(out.rglob("*.part")) == []


def test_a_watched_folder_is_segmented_as_pictures_come(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    command = [*COMMAND, "photos", *ALONE, "--out", str(out), "--format", "coco", "--watch"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for name in ("first.jpg", "second.jpg"):
                shutil.copy(BUNDLED, photos / name)
                wait_for(out / f"{name}.coco.json", process)
            (photos / "broken.jpg").write_bytes(BUNDLED.read_bytes()[:2000])
            assert process.stderr
            complaints = iter(process.stderr.readline, "")
            assert any("1 failed." in line for line in complaints)
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(60) == 1, rest
        finally:
            process.kill()
    document = json.loads((out / "second.jpg.coco.json").read_text())
    assert document["images"][0]["file_name"] == "second.jpg"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Waits until the process has written the file."""
    give_up_at = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_a_file_that_cannot_be_finished_is_not_begun(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("the mask is gone")

    with pytest.raises(ValueError, match="gone"):
        write_whole(tmp_path / "a.zip", broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_running_service_gives_the_files_that_one_alone_gives(
    stack: Stack, tmp_path: Path
) -> None:
    formats = ("--format", "masks,coco", "--model", "demo-yolo")
    there = segment(tmp_path, BUNDLED, *formats, "--server", stack.base_url, "--out", "there")
    here = segment(tmp_path, BUNDLED, *formats, "--alone", "--out", "here")
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    masks = [ZipFile(BytesIO((tmp_path / side / "sample.jpg.masks.zip").read_bytes()))
             for side in ("there", "here")]  # fmt: skip
    contents = [[archive.read(name) for name in archive.namelist()] for archive in masks]
    assert contents[0] == contents[1] != []
    assert (tmp_path / "there" / "sample.jpg.coco.json").is_file()
