"""Pictures segmented by one process, without Dagster and without a store that stays."""

import json
from typing import Any

import pytest

from seg_pipeline.errors import NotAnImage
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline.pipeline.alone import Alone
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.serving import serving


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The demo model, loaded once for all tests."""
    folder = tmp_path_factory.mktemp("alone")
    return Alone(make_settings(folder, model="demo-yolo", allow_private_urls=True), {}, 64)


def test_a_picture_is_segmented_and_exported(alone: Alone) -> None:
    with alone.segment("a.jpg", BUNDLED.read_bytes(), None) as segmented:
        document = json.loads(b"".join(segmented.export("coco")))
    assert len(document["annotations"]) == len(segmented.answer["segments"]) > 0


def test_its_answer_names_no_address_since_nobody_serves_it(alone: Alone) -> None:
    with alone.segment("a.jpg", BUNDLED.read_bytes(), None) as segmented:
        assert "url" not in json.dumps(segmented.answer)


def test_a_failed_picture_does_not_hold_up_the_next(alone: Alone) -> None:
    with pytest.raises(NotAnImage), alone.segment("a.jpg", b"no picture at all", None):
        pass
    with alone.segment("a.jpg", BUNDLED.read_bytes(), None) as segmented:
        assert segmented.answer["status"] == "completed"


def test_nothing_of_a_picture_stays_in_memory(alone: Alone) -> None:
    with alone.segment("a.jpg", BUNDLED.read_bytes(), None) as segmented:
        store = segmented.files.store
        assert store.list("assets/") != []
    assert store.list("assets/") == []


def test_a_picture_at_an_address_is_fetched(alone: Alone) -> None:
    def picture(_: object, start: Any) -> list[bytes]:
        start("200 OK", [("content-type", "image/jpeg")])
        return [BUNDLED.read_bytes()]

    with serving(picture) as url, alone.segment("a.jpg", None, f"{url}/a.jpg") as segmented:
        assert len(segmented.answer["segments"]) > 0
