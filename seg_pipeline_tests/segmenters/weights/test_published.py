"""What we say of published weights is what upstream's packages say, which take seconds to
import."""

import inspect
import re
import subprocess
import sys

import pytest

from seg_pipeline.segmenters.weights.published import PUBLISHED_SHA256, published_url
from seg_pipeline.segmenters.yolo.segmenter import import_ultralytics


def test_every_published_sam2_has_its_hash() -> None:
    names = [
        f"{family}_hiera_{size}"
        for family in ("sam2", "sam2.1")
        for size in ("tiny", "small", "base_plus", "large")
    ]
    assert [name for name in names if published_url(name)] == names
    assert list(PUBLISHED_SHA256) == names
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in PUBLISHED_SHA256.values())


def test_the_segmenting_yolos_are_those_of_the_pinned_release() -> None:
    import_ultralytics()
    from ultralytics.utils import ASSETS_URL
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    release = inspect.signature(attempt_download_asset).parameters["release"].default
    folder = f"{ASSETS_URL.rsplit('/', 1)[0]}/{release}"
    for file_name in GITHUB_ASSETS_NAMES:
        name = file_name.removesuffix(".pt")
        assert published_url(name) == (
            f"{folder}/{file_name}" if name.endswith("-seg") else None
        ), name


@pytest.mark.parametrize(
    "name", ["yolov8x", "yolov8q-seg", "sam2.1_hiera_huge", "demo-sam2", "yolov8x-seg.pt", ""]
)
def test_other_names_have_no_address(name: str) -> None:
    assert published_url(name) is None


@pytest.mark.process
def test_to_pull_weights_no_model_library_is_imported() -> None:
    """It is what a container does first, and takes no seconds for it."""
    code = (
        "import sys; from seg_pipeline.cli.main import app;"
        "app(['weights', 'pull', 'demo-yolo'], standalone_mode=False);"
        "assert not {'torch', 'ultralytics', 'sam2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
