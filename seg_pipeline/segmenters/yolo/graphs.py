"""A network replayed as CUDA graphs: what its hundreds of kernels do, without asking for each.

A graph holds for one shape of the input. It runs the kernels that the network runs without it, so
the output is the same. Making one takes about as long as a run of the network, so nothing is
compiled, and no shape is known beforehand: a shape gets its graph when it comes for the third time.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.cuda_graphs import GraphRecorder
from seg_pipeline.segmenters.devices import (
    first_line,
    is_out_of_memory,
    raise_if_broken,
)
from seg_pipeline.segmenters.yolo.networks import Network, Output

SIGHTINGS = 3
"""A shape that comes so often is worth a graph."""

MOST_GRAPHS = 16
"""So many are kept. The one unused for longest goes first."""

MOST_CAPTURES = 64
"""So many are ever made: pictures of ever new shapes must not make graphs all day."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Graph:
    """A recorded run: its input, its output, and what computes the one from the other.

    `held` are tensors that the recorded kernels read and that nobody else may free.
    """

    given: torch.Tensor
    output: Output
    replay: Callable[[], object]
    held: tuple[torch.Tensor, ...] = ()

    def __call__(self, batch: torch.Tensor) -> Output:
        self.given.copy_(batch)
        self.replay()
        return self.output


Capture = Callable[[Network, torch.Tensor], Graph]
"""Records the network's run on a batch of this shape."""


class GraphedNetwork:
    """A network with graphs for the shapes that come often. Any other shape runs without.

    An output holds until the next call.
    """

    def __init__(self, network: Network, capture: Capture) -> None:
        self.precision, self.engine = network.precision, network.engine
        self.notes: Notes = {"cuda_graphs": 0}
        self._network = network
        self._capture: Capture | None = capture
        self._seen: Counter[torch.Size] = Counter()
        self._graphs: OrderedDict[torch.Size, Graph] = OrderedDict()
        self._captures = 0

    def __call__(self, batch: torch.Tensor) -> Output:
        graph = self._graphs.get(batch.shape) or self._made(batch)
        if graph is None:
            return self._network(batch)
        self._graphs.move_to_end(batch.shape)
        return graph(batch)

    def _made(self, batch: torch.Tensor) -> Graph | None:
        """A new graph for this shape, if it came often enough and graphs can be made here."""
        self._seen[batch.shape] += 1
        enough = self._seen[batch.shape] >= SIGHTINGS and self._captures < MOST_CAPTURES
        if self._capture is None or not enough:
            return None
        self._captures += 1
        try:
            self._graphs[batch.shape] = self._capture(self._network, batch)
        except Exception as error:
            raise_if_broken(error)
            if is_out_of_memory(error):
                del self._seen[batch.shape]  # others share the GPU, who may leave more of it later
            else:
                self._give_up(error)
            return None
        if len(self._graphs) > MOST_GRAPHS:
            shape, _ = self._graphs.popitem(last=False)
            del self._seen[shape]
        self.notes["cuda_graphs"] = len(self._graphs)
        return self._graphs[batch.shape]

    def _give_up(self, error: Exception) -> None:
        self._capture = None
        self._graphs.clear()
        self.notes["cuda_graphs"] = f"none: {first_line(error)}"
        logger.warning("the network runs without CUDA graphs, which fail here: %s", error)


class CudaCapture:
    """Records runs on a GPU. All graphs share their memory, since one runs at a time.

    `head` is the network's last layer. It keeps the anchors of the last shape, which a graph reads.
    """

    def __init__(self, head: Any) -> None:
        self._head = head
        self._recorder: GraphRecorder | None = None

    def __call__(self, network: Network, batch: torch.Tensor) -> Graph:
        given = batch.clone()
        self._recorder = self._recorder or GraphRecorder(batch.device)
        replay, output = self._recorder(partial(network, given))
        return Graph(given, output, replay, (self._head.anchors, self._head.strides))
