"""The replaced service's health check, by a clock of our own."""

from api.idle_health import Activity


class Clock:
    """Seconds that pass when told."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def idle_after(seconds: float, activity: Activity, clock: Clock) -> bool:
    clock.seconds += seconds
    return activity.is_idle


def test_it_is_healthy_for_ever_until_the_first_request() -> None:
    clock = Clock()
    assert not idle_after(1e6, Activity(120, clock), clock)


def test_it_is_idle_once_the_time_has_passed_since_the_last_request() -> None:
    clock = Clock()
    activity = Activity(120, clock)
    activity.begin()
    activity.end()
    assert not idle_after(119.9, activity, clock)
    assert idle_after(0.1, activity, clock)
    activity.begin()
    activity.end()
    assert not activity.is_idle


def test_a_request_under_way_keeps_it_healthy_however_long_it_takes() -> None:
    """A restart would take the answer from whoever waits for it."""
    clock = Clock()
    activity = Activity(120, clock)
    activity.begin()
    assert not idle_after(1000, activity, clock)
    activity.end()
    assert not idle_after(119, activity, clock)
    assert idle_after(1, activity, clock)


def test_zero_turns_it_off() -> None:
    clock = Clock()
    activity = Activity(0, clock)
    activity.begin()
    activity.end()
    assert not idle_after(1e9, activity, clock)
