"""A picture that really kills every worker that segments it, among pictures that do not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.builders import saved
from seg_pipeline_tests.hooks import hooked
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

LETHAL_WIDTH = 333
CHANGE = f"""
import os, signal

def change(module):
    segment = module.YoloSegmenter.segment
    def kill_or_segment(self, images, parameters=None):
        if any(image.shape[1] == {LETHAL_WIDTH} for image in images):
            os.kill(os.getpid(), signal.SIGKILL)
        return segment(self, images, parameters)
    module.YoloSegmenter.segment = kill_or_segment
"""
"""In the worker, puts itself before the model."""


@pytest.fixture
def lethal_stack(tmp_path: Path, profile: str) -> Iterator[Stack]:
    """A service whose model kills its process over a picture of a certain width."""
    hook = hooked(tmp_path, "seg_pipeline.segmenters.yolo.segmenter", CHANGE)
    settings = {**hook, "MAX_ATTEMPTS": "2"}
    with Stack(tmp_path, settings, profile) as stack:
        yield stack


def test_a_picture_that_kills_its_workers_is_given_up_and_no_other(lethal_stack: Stack) -> None:
    """It takes a batch down first, whose other pictures are not to blame."""
    with Image.open(BUNDLED) as sample:
        lethal = saved(sample.convert("RGB").resize((LETHAL_WIDTH, 250)), "JPEG")
    pictures = {f"good-{index}": BUNDLED.read_bytes() for index in range(12)}
    pictures = {
        **pictures,
        "lethal": lethal,
        **{f"late-{index}": BUNDLED.read_bytes() for index in range(4)},
    }
    for uuid, picture in pictures.items():
        url = f"{lethal_stack.base_url}/segment"
        answer = httpx.post(
            url,
            content=picture,
            params={"uuid": uuid},
            headers={"prefer": "respond-async"},
            timeout=90,
        )
        assert answer.status_code in (200, 202)

    def status(uuid: str) -> str:
        return str(job(lethal_stack, uuid)["status"])

    good = [uuid for uuid in pictures if uuid != "lethal"]
    lethal_stack.wait_for(
        lambda: {status(uuid) for uuid in good} == {"completed"}, "completion of the good ones"
    )
    lethal_stack.wait_for(lambda: status("lethal") == "failed", "the end of the bad one")
    error = job(lethal_stack, "lethal")["error"]
    assert error == {
        "code": "worker_lost",
        "message": "job lethal ended its worker on each of 2 attempts; it is given up.",
    }
    lethal_stack.wait_for(lethal_stack.is_ready, "another worker")
    assert lethal_stack.send_sample().found > 0


def job(stack: Stack, uuid: str) -> dict[str, Any]:
    """The job as a client sees it."""
    document: dict[str, Any] = httpx.get(f"{stack.base_url}/jobs/{uuid}", timeout=30).json()
    return document
