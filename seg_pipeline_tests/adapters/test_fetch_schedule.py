"""Which picture is fetched next, in rows of made-up fetches."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from seg_pipeline.adapters.fetch_schedule import (
    AddressBusy,
    FetchSchedule,
    FetchSlot,
    FetchSlots,
    ScheduledFetch,
)
from seg_pipeline.jobs.fetches import FetchRecord, PendingFetch
from seg_pipeline_tests.builders import NOON, make_job


def make_fetch(
    uuid: str, host: str = "a", attempts: int = 0, in_seconds: float = 0
) -> ScheduledFetch:
    job = make_job(uuid, image_url=f"https://{host}.example/{uuid}")
    return ScheduledFetch(
        PendingFetch(job, FetchRecord(attempts=attempts)),
        host,
        NOON + timedelta(seconds=in_seconds),
    )


def schedule_of(slots: FetchSlots, *fetches: ScheduledFetch) -> FetchSchedule:
    schedule = FetchSchedule(slots)
    for fetch in fetches:
        schedule.add(fetch)
    return schedule


def begin(schedule: FetchSchedule, slots: FetchSlots) -> tuple[list[str], list[FetchSlot]]:
    """The jobs whose fetches begin now, and their slots."""
    uuids, taken = [], []
    for fetch in schedule.begin_due(NOON):
        uuids.append(fetch.uuid)
        taken.append(slots.take(fetch))
    return uuids, taken


def test_hosts_take_turns_and_of_each_the_longest_due_is_first() -> None:
    slots = FetchSlots(at_once=4, per_host=8)
    fetches = [
        make_fetch("a2", "a", in_seconds=-1),
        make_fetch("a1", "a", in_seconds=-2),
        make_fetch("a3", "a"),
    ]
    schedule = schedule_of(slots, *fetches, make_fetch("b1", "b"), make_fetch("c1", "c"))
    assert begin(schedule, slots)[0] == ["a1", "b1", "c1", "a2"]


def test_what_is_not_due_waits() -> None:
    slots = FetchSlots(at_once=4, per_host=8)
    assert begin(schedule_of(slots, make_fetch("later", in_seconds=1)), slots)[0] == []


def test_a_host_has_its_limit_and_others_overtake() -> None:
    slots = FetchSlots(at_once=100, per_host=2)
    crowd = [make_fetch(f"a{index:02}", "a", in_seconds=-9) for index in range(50)]
    schedule = schedule_of(slots, *crowd, make_fetch("b", "b"))
    uuids, taken = begin(schedule, slots)
    assert sorted(uuids) == ["a00", "a01", "b"]
    taken[0].free()
    assert begin(schedule, slots)[0] == ["a02"]


def test_a_deleted_job_is_passed_over() -> None:
    slots = FetchSlots(at_once=4, per_host=8)
    schedule = schedule_of(slots, make_fetch("a"), make_fetch("b"))
    schedule.discard("a")
    assert (begin(schedule, slots)[0], len(schedule)) == (["b"], 0)


def test_slow_fetches_give_their_places_to_others_up_to_a_limit() -> None:
    """300 hosts that hang hold up a good one for two seconds at most, and not until they are given
    up."""
    slots = FetchSlots(at_once=2, per_host=1)
    schedule = schedule_of(
        slots, *(make_fetch(f"hang-{index:02}", f"host-{index:02}") for index in range(20))
    )
    under_way: list[FetchSlot] = []
    rounds: list[Sequence[str]] = []
    for _ in range(5):
        uuids, taken = begin(schedule, slots)
        rounds.append(uuids)
        under_way += taken
        for slot in taken:
            slot.mark_slow()
    assert [len(uuids) for uuids in rounds] == [2, 2, 2, 2, 0]
    under_way[0].free()
    assert len(begin(schedule, slots)[0]) == 1


def test_retries_take_no_place_of_first_tries() -> None:
    slots = FetchSlots(at_once=2, per_host=9)
    retries = [
        make_fetch(f"again-{index}", f"h{index}", attempts=1, in_seconds=-5) for index in range(9)
    ]
    schedule = schedule_of(slots, *retries, make_fetch("new", "good"))
    uuids, _ = begin(schedule, slots)
    assert "new" in uuids
    assert len(uuids) == 5


def test_an_address_has_its_limit_whatever_its_names() -> None:
    slots = FetchSlots(at_once=100, per_host=1)
    fetches = [make_fetch(f"job-{index}", f"name-{index}") for index in range(5)]
    uuids, taken = begin(schedule_of(slots, *fetches), slots)
    assert len(uuids) == 5
    for slot in taken[:4]:
        slot.connect("93.184.216.34", 443)
        slot.connect("93.184.216.34", 443)
    with pytest.raises(AddressBusy) as busy:
        taken[4].connect("93.184.216.34", 443)
    again = make_fetch("job-4", "name-4")
    again.address = busy.value.address
    taken[4].free()
    schedule = schedule_of(slots, again)
    assert begin(schedule, slots)[0] == []
    taken[0].free()
    assert begin(schedule, slots)[0] == ["job-4"]


def test_in_the_end_nothing_is_counted_any_more() -> None:
    slots = FetchSlots(at_once=2, per_host=1)
    _, taken = begin(schedule_of(slots, make_fetch("a"), make_fetch("b", "b", attempts=1)), slots)
    taken[0].connect("10.0.0.1", 80)
    taken[0].mark_slow()
    for slot in taken:
        slot.free()
    assert (slots.quick, slots.slow, dict(slots.hosts), dict(slots.addresses)) == (0, 0, {}, {})
