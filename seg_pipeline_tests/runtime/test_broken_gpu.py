"""A GPU that breaks under a worker, by the very error that torch raises then."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.hooks import hooked
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

CHANGE = """
import os
from pathlib import Path

ONCE = Path({once!r})

def change(module):
    whole = module.YoloSegmenter._segment_all
    def break_or_segment(self, images, confidence):
        try:
            ONCE.rename(ONCE.with_name(str(os.getpid())))
        except FileNotFoundError:
            return whole(self, images, confidence)
        raise module.torch.AcceleratorError({words!r})
    module.YoloSegmenter._segment_all = break_or_segment
"""
"""The first worker that segments while the file is there takes it away and loses its GPU."""

WORDS = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
    " asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
)


@pytest.fixture
def breaking_stack(tmp_path: Path, profile: str) -> Iterator[Stack]:
    """A service where one attempt that counts would be a job's last."""
    change = CHANGE.format(once=str(tmp_path / "once"), words=WORDS)
    hook = hooked(tmp_path, "seg_pipeline.segmenters.yolo.segmenter", change)
    settings = {**hook, "MAX_ATTEMPTS": "1"}
    with Stack(tmp_path, settings, profile) as stack:
        yield stack


def test_a_worker_whose_gpu_breaks_is_replaced_and_its_job_is_done_by_another(
    breaking_stack: Stack, tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / "once").touch()
        answer = httpx.post(
            f"{breaking_stack.base_url}/segment",
            content=BUNDLED.read_bytes(),
            params={"uuid": f"job-{number}"},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        assert not (tmp_path / "once").exists(), "no GPU broke"
    broke = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(broke) == 2, "two processes lost it, since the first was replaced"
    output = breaking_stack.output()
    assert "takes itself out: this process can use the GPU no more" in output
    breaking_stack.wait_for(breaking_stack.is_ready, "a worker that is well")
