"""A GPU that breaks under a worker, by the very error that torch raises then."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

SITECUSTOMIZE = """
import os, sys
from importlib.machinery import PathFinder
from pathlib import Path

ONCE = Path({once!r})

class Breaking:
    def find_spec(self, name, path=None, target=None):
        if name != "seg_pipeline.segmenters.yolo.segmenter":
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            whole = module.YoloSegmenter._segment_all
            def break_or_segment(self, images, confidence):
                try:
                    ONCE.rename(ONCE.with_name(str(os.getpid())))
                except FileNotFoundError:
                    return whole(self, images, confidence)
                raise module.torch.AcceleratorError({words!r})
            module.YoloSegmenter._segment_all = break_or_segment
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Breaking())
"""
"""Python runs it in every process of the service. The first worker that segments while the file is
there takes it away and loses its GPU."""

WORDS = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
    " asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
)


@pytest.fixture
def breaking_stack(tmp_path: Path, profile: str) -> Iterator[Stack]:
    """A service where one attempt that counts would be a job's last."""
    (tmp_path / "hook").mkdir()
    once = str(tmp_path / "once")
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        SITECUSTOMIZE.format(once=once, words=WORDS)
    )
    paths = [str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MAX_ATTEMPTS": "1"}
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
