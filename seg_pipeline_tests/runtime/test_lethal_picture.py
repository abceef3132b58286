"""A picture that really kills every worker that segments it, among pictures that do not. One that
hangs a worker."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.builders import saved
from seg_pipeline_tests.hooks import hooked
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

LETHAL_WIDTH, HANGING_WIDTH = 333, 334
STALL_SECONDS = 15
CHANGE = """
import os, signal, time
from pathlib import Path

def change(module):
    segment = module.YoloSegmenter.segment
    def harm_or_segment(self, images, parameters=None):
        widths = {{image.shape[1] for image in images}}
        if {lethal} in widths:
            os.kill(os.getpid(), signal.SIGKILL)
        if {hanging} in widths and not (has_hung := Path({has_hung!r})).exists():
            has_hung.touch()
            time.sleep(3600)
        return segment(self, images, parameters)
    module.YoloSegmenter.segment = harm_or_segment
"""
"""In the worker, puts itself before the model."""


@pytest.fixture(scope="module")
def lethal_stack(tmp_path_factory: pytest.TempPathFactory, profile: str) -> Iterator[Stack]:
    """A service whose model kills its process over one width, and hangs once over another."""
    folder = tmp_path_factory.mktemp("lethal")
    change = CHANGE.format(
        lethal=LETHAL_WIDTH, hanging=HANGING_WIDTH, has_hung=str(folder / "has-hung")
    )
    hook = hooked(folder, "seg_pipeline.segmenters.yolo.segmenter", change)
    settings = {**hook, "MAX_ATTEMPTS": "2", "RUN_STALL_SECONDS": str(STALL_SECONDS)}
    with Stack(folder, settings, profile) as stack:
        yield stack


def sample_of_width(width: int) -> bytes:
    """The sample picture, made so wide."""
    with Image.open(BUNDLED) as sample:
        return saved(sample.convert("RGB").resize((width, 250)), "JPEG")


def test_a_picture_that_kills_its_workers_is_given_up_and_no_other(lethal_stack: Stack) -> None:
    """It takes a batch down first, whose other pictures are not to blame."""
    lethal = sample_of_width(LETHAL_WIDTH)
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
        "message": (
            "job lethal ended its worker, or kept it without progress, on each of 2 attempts; it is"
            " given up."
        ),
    }
    lethal_stack.wait_for(lethal_stack.is_ready, "another worker")
    assert lethal_stack.send_sample().found > 0


def test_a_model_that_hangs_costs_an_attempt_and_no_worker_for_good(lethal_stack: Stack) -> None:
    answer = httpx.post(
        f"{lethal_stack.base_url}/segment",
        content=sample_of_width(HANGING_WIDTH),
        params={"uuid": "hangs-once"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert f"made no progress for {STALL_SECONDS} s" in lethal_stack.output()
    lethal_stack.wait_for(lethal_stack.is_ready, "another worker")


def job(stack: Stack, uuid: str) -> dict[str, Any]:
    """The job as a client sees it."""
    document: dict[str, Any] = httpx.get(f"{stack.base_url}/jobs/{uuid}", timeout=30).json()
    return document
