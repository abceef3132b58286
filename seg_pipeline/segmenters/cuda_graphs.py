"""Runs of a function recorded as CUDA graphs: all its kernels, asked for at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from seg_pipeline.segmenters.devices import capturing

WARM_UPS = 3
"""Runs before a capture, in which libraries choose and allocate."""

_failed: list[Any] = []
"""Graphs whose capture CUDA broke off. torch's allocator of pinned memory goes on asking them."""


class GraphRecorder:
    """Records runs on a GPU. All its graphs share memory, so one is replayed at a time.

    They do so because one stream records them all: torch gives a stream's memory to no other. Its
    own default stream for captures would be on the GPU that some model was the first to record on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: Any = None
        self._has_recorded = False

    def __call__(
        self,
        function: Callable[[], Any],
        alone: AbstractContextManager[Any] | None = None,
    ) -> tuple[Callable[[], object], Any]:
        """What replays a run of the function, and the results that this writes.

        `alone` is held during the capture. Raises what the function or CUDA raises; the next
        function may yet be recorded.
        """
        current = torch.cuda.current_stream(self._device)
        stream = self._stream = self._stream or torch.cuda.Stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(stream)
        # A capture that cannot begin leaves its stream as the thread's own.
        with alone or nullcontext(), capturing, torch.cuda.stream(current):
            return self._captured(function)

    def _captured(self, function: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            # Other threads may use the GPU meanwhile, which only this mode allows.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                results = function()
        except Exception as error:
            self._clean_up(graph)
            raise _reason(error)  # noqa: B904  the reason has its own
        self._has_recorded = True
        return graph.replay, results

    def _clean_up(self, graph: Any) -> None:
        """Frees the memory of a capture that failed, and takes other memory for the next one.

        After one that CUDA broke off torch goes on recording allocations, and takes no memory back.
        """
        if _ended_by_hand(self._pool):
            _failed.append(graph)
            self._pool = None
        elif not self._has_recorded:
            self._pool = None


def _ended_by_hand(pool: Any) -> bool:
    """Ends the recording of allocations; False if torch has done so itself."""
    device = torch.cuda.current_device()
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:
        return False
    torch._C._cuda_releasePool(device, pool)
    return True


def _reason(error: Exception) -> BaseException:
    """What broke the capture off. The end of such a capture says only that something did."""
    return (error.__context__ or error) if "captur" in str(error) else error
