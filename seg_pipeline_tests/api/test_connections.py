"""Which connections are closed when there are too many."""

import pytest

from api.connections import HEAD_SECONDS, Connections


class Wire:
    """A connection that knows whether it was hung up."""

    is_open = True

    def hang_up(self, reason: str) -> None:
        assert reason
        self.is_open = False


class Clock:
    """A second goes by at each look, so that nobody has just come."""

    now = 0.0
    step = 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def opened(connections: Connections, client: str, count: int) -> list[Wire]:
    wires = [Wire() for _ in range(count)]
    for wire in wires:
        connections.opened(wire, client)
    return wires


def test_the_longest_silent_one_goes_first() -> None:
    connections = Connections(8, Clock())
    wires = opened(connections, "a", 6)
    assert [wire.is_open for wire in wires] == [False, False, True, True, True, True]
    assert (connections.count, connections.silent_count) == (4, 4)


def test_who_has_most_loses_first() -> None:
    """One client's hundred do not cost another's one."""
    connections = Connections(8, Clock())
    (quiet,) = opened(connections, "quiet", 1)
    opened(connections, "loud", 100)
    assert quiet.is_open
    assert connections.count == 4


def test_those_on_which_somebody_is_served_stay() -> None:
    connections = Connections(8, Clock())
    served = opened(connections, "a", 4)
    for wire in served:
        connections.served(wire)
    silent = opened(connections, "a", 20)
    assert all(wire.is_open for wire in served)
    assert sum(wire.is_open for wire in silent) == 4
    connections.silent(served[0], "a")
    assert served[0].is_open
    assert connections.silent_count == 4


def test_a_newcomer_gets_in_even_if_nobody_can_go() -> None:
    """A probe always gets an answer."""
    connections = Connections(4, Clock())
    for wire in opened(connections, "a", 2) + opened(connections, "b", 2):
        connections.served(wire)
    (probe,) = opened(connections, "probe", 1)
    assert probe.is_open


def test_a_closed_connection_is_forgotten() -> None:
    connections = Connections(8, Clock())
    for wire in opened(connections, "a", 3):
        connections.closed(wire)
        connections.silent(wire, "a")
    assert (connections.count, connections.silent_count) == (0, 0)


def test_a_head_has_less_time_when_many_are_silent() -> None:
    connections = Connections(100, Clock())
    assert connections.head_seconds == HEAD_SECONDS
    opened(connections, "a", 25)
    assert connections.head_seconds == pytest.approx(HEAD_SECONDS / 2)
    opened(connections, "a", 25)
    assert connections.head_seconds == pytest.approx(HEAD_SECONDS / 10)


def test_those_who_come_at_once_all_get_in_up_to_twice_as_many() -> None:
    clock = Clock()
    clock.step = 0
    connections = Connections(8, clock)
    wires = opened(connections, "a", 20)
    assert [wire.is_open for wire in wires] == [False] * 12 + [True] * 8
    clock.now += 1
    opened(connections, "b", 1)
    assert connections.silent_count == 4
