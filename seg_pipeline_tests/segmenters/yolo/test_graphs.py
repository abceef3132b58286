"""When a network gets graphs, and what happens where none can be made. CUDA's own are stood in for
by a recorder that keeps its input and output in place, as they do."""

import pytest
import torch

from seg_pipeline.errors import DeviceBroken
from seg_pipeline.segmenters.yolo.graphs import (
    MOST_CAPTURES,
    MOST_GRAPHS,
    SIGHTINGS,
    Graph,
    GraphedNetwork,
)
from seg_pipeline.segmenters.yolo.networks import Network, Output

CAPTURING = "CUDA error: operation not permitted when stream is capturing"


class Doubling:
    """A network that doubles."""

    precision, engine = "fp32", "torch"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: torch.Tensor) -> Output:
        self.calls += 1
        return batch * 2, batch + 1


class Recorder:
    """Records as CUDA does: a replay reads the one input and writes the one output."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []
        self.replays = 0

    def __call__(self, network: Network, batch: torch.Tensor) -> Graph:
        self.shapes.append(batch.shape)
        given = batch.clone()
        output = network(given)

        def replay() -> None:
            self.replays += 1
            for kept, new in zip(output, (given * 2, given + 1), strict=True):
                kept.copy_(new)

        return Graph(given, output, replay)


def batch(side: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((1, 3, side, side), value)


def test_a_shape_that_comes_often_is_replayed_with_its_own_input() -> None:
    network, recorder = Doubling(), Recorder()
    graphed = GraphedNetwork(network, recorder)
    for value in range(1, SIGHTINGS + 3):
        doubled, added = graphed(batch(4, value))
        assert (doubled.unique().tolist(), added.unique().tolist()) == ([2 * value], [value + 1])
    assert (network.calls, recorder.replays) == (SIGHTINGS, 3)
    assert graphed.notes == {"cuda_graphs": 1}
    assert (graphed.precision, graphed.engine) == ("fp32", "torch")


def test_shapes_that_come_seldom_get_no_graph() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(Doubling(), recorder)
    for side in range(1, 50):
        assert graphed(batch(side))[0].shape == (1, 3, side, side)
    assert recorder.shapes == []


def test_the_graph_unused_for_longest_goes_and_few_are_ever_made() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(Doubling(), recorder)
    for side in range(1, MOST_GRAPHS + 2):
        for _ in range(SIGHTINGS):
            graphed(batch(side))
            graphed(batch(1))
    assert len(graphed._graphs) == graphed.notes["cuda_graphs"] == MOST_GRAPHS
    assert batch(1).shape in graphed._graphs
    assert batch(2).shape not in graphed._graphs
    for side in range(1, 3 * MOST_CAPTURES):
        for _ in range(SIGHTINGS):
            graphed(batch(side))
    assert len(recorder.shapes) == MOST_CAPTURES


def test_where_no_graph_can_be_made_the_network_runs_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> Graph:
        raise torch.AcceleratorError(CAPTURING)

    graphed = GraphedNetwork(Doubling(), fail)
    for _ in range(SIGHTINGS + 2):
        assert graphed(batch(4))[0].unique().tolist() == [2]
    assert len(caplog.records) == 1
    assert graphed.notes == {"cuda_graphs": f"none: {CAPTURING}"}


def test_where_memory_does_not_suffice_for_a_graph_it_is_tried_again_later() -> None:
    recorder, asked = Recorder(), 0

    def fail_once(network: Network, given: torch.Tensor) -> Graph:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return recorder(network, given)

    graphed = GraphedNetwork(Doubling(), fail_once)
    for _ in range(2 * SIGHTINGS):
        assert graphed(batch(4))[0].unique().tolist() == [2]
    assert (asked, recorder.replays) == (2, 1)
    assert graphed.notes == {"cuda_graphs": 1}


def test_a_gpu_that_breaks_while_a_graph_is_made_is_no_matter_of_graphs() -> None:
    def fail(*_: object) -> Graph:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    graphed = GraphedNetwork(Doubling(), fail)
    for _ in range(SIGHTINGS - 1):
        graphed(batch(4))
    with pytest.raises(DeviceBroken):
        graphed(batch(4))
