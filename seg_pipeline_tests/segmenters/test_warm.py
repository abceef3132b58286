import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.domain import Parameters, RgbImage, Segment
from seg_pipeline.errors import DeviceBroken, ModelOutOfMemory, WeightsMissing
from seg_pipeline.segmenters import Notes, Segmenter
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings

pytestmark = pytest.mark.process


class CountingSegmenter:
    """Finds nothing, and knows whether it was closed."""

    device = "cpu"
    weights_sha256 = "0" * 64

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.notes: Notes = {}

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        assert not self.closed
        return [[] for _ in images]

    def close(self) -> None:
        self.closed = True


class Shelf:
    """Warm models whose loads are counted and whose clock stands until it is set."""

    def __init__(self, gpu_bytes: int | None = None, **settings: Any) -> None:
        self.loads: list[str] = []
        self.now = 0.0
        self.failures: list[Exception] = []
        self.gpu_bytes = gpu_bytes
        self.models = WarmModels(
            Settings(_env_file=None, **settings), self._load, lambda: self.now, self._free_memory
        )

    def _free_memory(self, _: str) -> int | None:
        """What a GPU of `gpu_bytes` has left beside models of 5 GiB each; None without a GPU."""
        used = len(self.models.loaded()) * 5 * 2**30
        return None if self.gpu_bytes is None else self.gpu_bytes - used

    def _load(self, name: str, _: Settings) -> Segmenter:
        self.loads.append(name)
        if self.failures:
            raise self.failures.pop()
        return CountingSegmenter(name)

    def use(self, name: str, at: float = 0.0) -> Segmenter:
        self.now = at
        with self.models.borrow(name) as segmenter:
            return segmenter


def test_a_model_is_loaded_once_over_many_borrows() -> None:
    shelf = Shelf()
    assert len({id(shelf.use("demo-yolo")) for _ in range(20)}) == 1
    assert shelf.loads == shelf.models.loaded() == ["demo-yolo"]


def test_nothing_is_loaded_before_it_is_wanted() -> None:
    shelf = Shelf()
    assert shelf.models.loaded() == shelf.loads == []


def test_many_threads_get_the_same_model_one_at_a_time() -> None:
    shelf = Shelf()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with shelf.models.borrow("demo-yolo") as segmenter:
            inside.append(1)
            most.append(len(inside))
            segmenter.segment([])
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (shelf.loads, len(most), max(most)) == (["demo-yolo"], 8, 1)


def test_an_idle_model_is_unloaded_and_loads_again_when_it_is_wanted() -> None:
    shelf = Shelf(idle_unload_seconds=60)
    segmenter = shelf.use("demo-yolo", at=100)
    assert shelf.models.unload_idle(159) == []
    assert shelf.models.unload_idle(160) == ["demo-yolo"]
    assert isinstance(segmenter, CountingSegmenter)
    assert segmenter.closed
    assert shelf.models.loaded() == shelf.models.unload_idle(999) == []
    shelf.use("demo-yolo", at=1000)
    assert shelf.loads == ["demo-yolo"] * 2


def test_zero_keeps_models_for_ever() -> None:
    shelf = Shelf(idle_unload_seconds=0)
    shelf.use("demo-yolo")
    assert shelf.models.unload_idle(1e9) == []


def test_a_model_in_use_is_not_unloaded() -> None:
    shelf = Shelf(idle_unload_seconds=1)
    with shelf.models.borrow("demo-yolo") as segmenter:
        assert shelf.models.unload_idle(1e9) == []
        segmenter.segment([])
    assert shelf.models.loaded() == ["demo-yolo"]


def test_a_third_model_takes_the_place_of_the_one_unused_for_longest() -> None:
    shelf = Shelf()
    shelf.use("one", at=1)
    shelf.use("two", at=2)
    shelf.use("one", at=3)
    shelf.use("three", at=4)
    assert shelf.models.loaded() == ["one", "three"]


def test_a_model_in_use_keeps_its_place() -> None:
    shelf = Shelf()
    with shelf.models.borrow("one") as segmenter:
        shelf.use("two", at=5)
        shelf.use("three", at=6)
        segmenter.segment([])
        assert shelf.models.loaded() == ["one", "three"]


def test_a_load_that_failed_is_tried_again_by_the_next() -> None:
    shelf = Shelf()
    shelf.failures.append(ModelOutOfMemory("no memory"))
    with pytest.raises(ModelOutOfMemory):
        shelf.use("demo-yolo")
    assert shelf.models.loaded() == []
    assert shelf.use("demo-yolo").name == "demo-yolo"


def test_a_failure_of_the_borrower_gives_the_model_back() -> None:
    shelf = Shelf()
    with pytest.raises(ZeroDivisionError), shelf.models.borrow("demo-yolo"):
        raise ZeroDivisionError
    assert shelf.use("demo-yolo")
    assert shelf.loads == ["demo-yolo"]


def test_closing_unloads_all() -> None:
    shelf = Shelf()
    segmenters = [shelf.use("one"), shelf.use("two")]
    shelf.models.close()
    assert all(
        isinstance(segmenter, CountingSegmenter) and segmenter.closed for segmenter in segmenters
    )
    assert shelf.models.loaded() == []


def test_a_gpu_keeps_as_many_models_as_its_memory_holds_and_the_last_used_stay() -> None:
    shelf = Shelf(gpu_bytes=24 * 2**30)
    for at, name in enumerate(["one", "two", "three", "four", "one"]):
        shelf.use(name, at=at)
    assert shelf.models.loaded() == ["four", "one", "three", "two"]
    shelf.use("five", at=9)
    assert shelf.models.loaded() == ["five", "four", "one", "three"]


def test_a_small_gpu_gives_its_memory_to_the_model_that_is_wanted() -> None:
    shelf = Shelf(gpu_bytes=4 * 2**30)
    shelf.use("one")
    shelf.use("two")
    assert shelf.models.loaded() == ["two"]


def test_a_load_that_runs_out_of_memory_is_tried_again_without_the_other_models() -> None:
    shelf = Shelf(gpu_bytes=80 * 2**30)
    shelf.use("one", at=1)
    shelf.use("two", at=2)
    shelf.failures.append(ModelOutOfMemory("no memory"))
    shelf.use("three", at=3)
    assert shelf.models.loaded() == ["three"]
    assert shelf.loads == ["one", "two", "three", "three"]


def test_work_that_runs_out_of_memory_is_done_again_once() -> None:
    shelf = Shelf(gpu_bytes=80 * 2**30)
    shelf.use("one")
    failures: list[Exception] = [ModelOutOfMemory("no memory")]

    def work() -> str:
        if failures:
            raise failures.pop()
        return "done"

    with shelf.models.borrow("two"):
        assert shelf.models.with_more_memory("two", work) == "done"
        assert shelf.models.loaded() == ["two"]
        failures += [ModelOutOfMemory("a first time"), ModelOutOfMemory("never tried")]
        with pytest.raises(ModelOutOfMemory, match="never tried"):
            shelf.models.with_more_memory("two", work)
    assert len(failures) == 1


def test_models_are_loaded_ahead_and_stay_while_idle() -> None:
    shelf = Shelf(gpu_bytes=80 * 2**30, warm_models="one, two", idle_unload_seconds=60)
    shelf.models.warm_up()
    shelf.use("three")
    assert shelf.loads == ["one", "two", "three"]
    assert shelf.models.unload_idle(1e9) == ["three"]


def test_a_model_that_cannot_be_loaded_ahead_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = Shelf(warm_models="one,two")
    shelf.failures.append(WeightsMissing("no weights"))
    shelf.models.warm_up()
    assert shelf.models.loaded() == ["two"]
    assert "one is not loaded ahead: no weights" in caplog.text


def test_a_gpu_that_is_broken_ends_the_loading_ahead() -> None:
    shelf = Shelf(warm_models="one,two")
    shelf.failures.append(DeviceBroken("no GPU"))
    with pytest.raises(DeviceBroken):
        shelf.models.warm_up()


MEMORY_SCRIPT = """
import json, resource, sys
from pathlib import Path
import numpy as np
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import Settings

def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6

model = sys.argv[1]
settings = Settings(
    _env_file=None, model=model, device="cpu", weights_dir=Path(model).parent, idle_unload_seconds=1
)
warm = WarmModels(settings)
picture = np.full((640, 640, 3), 128, np.uint8)
resident = []
for _ in range(2):
    with warm.borrow(model) as segmenter:
        segmenter.segment([picture])
    resident.append(resident_mb())
    del segmenter
    assert warm.unload_idle(1e18) == [model]
    resident.append(resident_mb())
print(json.dumps(resident))
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"
)
def test_unloading_gives_memory_back_to_the_system(tmp_path: Path) -> None:
    """A worker that was used once at night must not hold a gigabyte until the morning; torch's own
    code stays."""
    from seg_pipeline_tests.segmenters.models import save_untrained_yolo

    weights = save_untrained_yolo(tmp_path / "medium-seg.pt", "yolov8m-seg.yaml")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(weights)],
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, unloaded, again, at_last = json.loads(done.stdout)
    network_mb = weights.stat().st_size / 1e6
    assert loaded - unloaded > network_mb * 0.7
    assert again - at_last > network_mb * 0.7
    assert at_last < unloaded + network_mb * 0.3


def test_a_model_that_is_being_loaded_is_seen_and_one_that_is_lent_is_no_matter() -> None:
    """An interrupt in the middle of a load would leave torch half imported, for good."""
    seen = []

    def is_free() -> bool:
        with models.not_loading() as free:
            return free

    def load(name: str, _: Settings) -> CountingSegmenter:
        with ThreadPoolExecutor(1) as other:
            seen.append(other.submit(is_free).result())
        return CountingSegmenter(name)

    models = WarmModels(Settings(_env_file=None), load)
    with models.borrow("demo-yolo"):
        seen.append(is_free())
    assert seen == [False, True]


def test_borrowers_of_both_models_and_of_either_all_get_their_turn() -> None:
    shelf = Shelf()
    names = ["demo-sam2+demo-yolo", "demo-yolo", "demo-sam2", "sam2+yolo"] * 10

    def borrow(name: str) -> str:
        with shelf.models.borrow(name) as segmenter:
            segmenter.segment([])
            return segmenter.name

    with ThreadPoolExecutor(8) as pool:
        lent = list(pool.map(borrow, names, timeout=60))
    assert lent[:3] == names[:3]
    assert set(lent[3::4]) == {"sam2.1_hiera_large+yolov8x-seg"}
