"""The ZIP of everything."""

import json
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from ultralytics.data.utils import check_det_dataset

from seg_pipeline_tests.exports.exporting import blobs, export_of, exported

EXPORT = export_of(*blobs(2), labels="disc bar")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The ZIP, unpacked."""
    with ZipFile(BytesIO(exported("zip", EXPORT))) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    return tmp_path


def test_it_holds_every_form_of_every_file(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    crops = {segment.crop_name for segment in EXPORT.picture.segments}
    assert names == crops | {
        *("README.txt", "result.json", "coco.json", "data.yaml", "label_map.png", "overlay.webp"),
        *("images/job-1.webp", "labels/job-1.txt"),
        *("masks/mask_000.png", "masks/mask_001.png"),
        *("mask_images/mask_000.png", "mask_images/mask_001.png"),
    }


def test_stored_files_are_the_stored_ones(folder: Path) -> None:
    for segment in EXPORT.picture.segments:
        for name in (segment.mask_name, segment.crop_name, "overlay.webp"):
            assert (folder / name).read_bytes() == EXPORT.files.get(name)
    assert (folder / "images/job-1.webp").read_bytes() == EXPORT.files.get("original.webp")


def test_documents_are_those_that_are_had_alone(folder: Path) -> None:
    assert json.loads((folder / "result.json").read_text()) == EXPORT.picture.answer
    assert (folder / "coco.json").read_bytes() == exported("coco", EXPORT)
    assert (folder / "label_map.png").read_bytes() == exported("label-map", EXPORT)
    assert check_det_dataset(str(folder / "data.yaml"), autodownload=False)["nc"] == 2


def test_the_readme_names_what_is_there(folder: Path) -> None:
    text = (folder / "README.txt").read_text()
    assert "Job job-1, segmented by demo-yolo: 2 segments in a picture of 64 x 48." in text
    named = [line.split("  ")[0].split(", ") for line in text.splitlines()[2:]]
    for name in (name for line in named for name in line):
        assert (folder / name).exists(), name
    top = {path.name for path in folder.iterdir()} - {"README.txt"}
    assert top == {name.split("/")[0] for line in named for name in line}
