"""CUDA is stood in for by notes on what it was asked. Streams and captures nest as torch's do."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seg_pipeline.segmenters import cuda_graphs
from seg_pipeline.segmenters.cuda_graphs import GraphRecorder
from seg_pipeline.segmenters.yolo.graphs import CudaCapture

pytestmark = pytest.mark.process

GPU = torch.device("cuda", 0)
NOT_PERMITTED = "CUDA error: operation not permitted when stream is capturing"
BROKEN_OFF = "CUDA error: operation failed due to a previous error during capture"


class Cuda:
    """On which stream work is asked for, and the allocations that torch records.

    A capture that CUDA breaks off ends in an error, and its allocations are recorded for ever.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: Any = self.new_stream()
        self.streams: list[Any] = []
        self.pools: list[int] = []
        self.captures: list[tuple[Any, int]] = []
        self.recording: list[int] = []
        self.released: list[int] = []
        for name in ("stream", "graph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", self.made_stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.now)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(
            torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: "replayed")
        )
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda _, pool: self.released.append(pool)
        )
        monkeypatch.setattr(cuda_graphs, "_failed", [])

    @staticmethod
    def new_stream() -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda _: None)

    def made_stream(self, _: torch.device) -> SimpleNamespace:
        self.streams.append(self.new_stream())
        return self.streams[-1]

    def graph_pool_handle(self) -> int:
        self.pools.append(len(self.pools) + 1)
        return self.pools[-1]

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(
        self, _: Any, pool: int, stream: Any, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        before, self.now = self.now, stream
        if pool in self.recording:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.captures.append((stream, pool))
        self.recording.append(pool)
        try:
            yield
        except torch.AcceleratorError as error:
            raise torch.AcceleratorError(BROKEN_OFF) from error
        except BaseException:
            self.recording.remove(pool)
            raise
        else:
            self.recording.remove(pool)
        finally:
            self.now = before

    def end(self, device: int, pool: int) -> None:
        assert device == 0
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def fails(error: Exception, cuda: Cuda) -> Any:
    """A function that fails under a capture alone."""

    def run() -> str:
        if cuda.recording:
            raise error
        return "warmed up"

    return run


def test_all_graphs_are_recorded_on_one_stream_which_has_warmed_up(cuda: Cuda) -> None:
    """What torch allocates for one stream, it gives to no other: not graphs' memory, and not the
    workspace of matrix products."""
    used: list[Any] = []

    def network(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(cuda.now)
        return given, given

    head = SimpleNamespace(anchors=torch.zeros(1), strides=torch.zeros(1))
    capture = CudaCapture(head)
    for side in (4, 8):
        capture(network, torch.ones(1, 3, side, side))  # type: ignore[arg-type]
    (stream,) = cuda.streams
    assert cuda.captures == [(stream, 1), (stream, 1)]
    assert used == 8 * [stream]


def test_a_capture_that_cuda_breaks_off_leaves_nothing_behind(cuda: Cuda) -> None:
    """torch would record on: the next capture would fail, and memory would never come back."""
    recorder, before = GraphRecorder(GPU), cuda.now
    recorder(lambda: "first")
    with pytest.raises(torch.AcceleratorError, match="not permitted"):
        recorder(fails(torch.AcceleratorError(NOT_PERMITTED), cuda))
    assert (cuda.recording, cuda.released) == ([], [1])
    assert len(cuda_graphs._failed) == 1
    replay, results = recorder(lambda: "another")
    assert (replay(), results) == ("replayed", "another")
    assert [pool for _, pool in cuda.captures] == [1, 1, 2]
    assert cuda.now is before


def test_graphs_go_on_sharing_memory_after_one_that_did_not_fit(cuda: Cuda) -> None:
    recorder = GraphRecorder(GPU)
    recorder(lambda: "first")
    with pytest.raises(torch.OutOfMemoryError):
        recorder(fails(torch.OutOfMemoryError("CUDA out of memory."), cuda))
    recorder(lambda: "another")
    assert cuda.pools == [1]
    assert (cuda.released, cuda_graphs._failed) == ([], [])


def test_memory_that_no_graph_has_is_not_asked_for_again(cuda: Cuda) -> None:
    """torch gives it up with the first graph, and refuses to record to what it has given up."""
    recorder = GraphRecorder(GPU)
    with pytest.raises(torch.OutOfMemoryError):
        recorder(fails(torch.OutOfMemoryError("CUDA out of memory."), cuda))
    recorder(lambda: "another")
    assert [pool for _, pool in cuda.captures] == [1, 2]


def test_a_thread_keeps_its_stream_where_a_capture_cannot_begin(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch has made the capture's stream the thread's own by then."""
    recorder, before = GraphRecorder(GPU), cuda.now
    monkeypatch.setattr(cuda, "recording", [1])
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", partial(refuse, RuntimeError()))
    with pytest.raises(RuntimeError, match="already recording"):
        recorder(lambda: "first")
    assert cuda.now is before


def refuse(error: Exception, *_: object) -> None:
    raise error
