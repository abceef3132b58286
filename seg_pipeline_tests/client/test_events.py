"""A job's events by both clients, and what a broken connection costs: nothing."""

from datetime import UTC, datetime

import httpx
import pytest

from seg_client import AsyncClient, ConnectionFailed, UnexpectedAnswer
from seg_client.errors import Busy, JobNotFound
from seg_client.events import EventReader, JobEvent
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.store import keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import picture_bytes
from seg_pipeline_tests.client.conftest import InALoop, Served
from seg_pipeline_tests.client.test_flows import answering
from seg_pipeline_tests.pauses import note_pauses

EVENT = 'id: {id}\nevent: progress\ndata: {{"uuid": "job-1", "status": "{status}"}}\n\n'


def test_events_come_from_the_queue_to_the_end(served: Served) -> None:
    client = served.start()
    job = client.submit(picture_bytes())
    seen: list[JobEvent] = []
    for event in job.events():
        seen.append(event)
        if len(seen) == 1:
            progress = Progress("segments", datetime.now(UTC), 1, 4)
            served.store.put(keys.progress(job.uuid), write(progress))
        elif len(seen) == 2:
            finish_job(served.store, job.uuid, DRAWING)
    assert [(each.status, each.stage, each.done, each.segments) for each in seen] == [
        ("queued", None, None, None),
        ("processing", "segments", 1, None),
        ("completed", None, None, 1),
    ]
    with pytest.raises(JobNotFound):
        next(client.job("unknown").events())


def test_the_async_client_gets_the_same(served: Served, in_a_loop: InALoop) -> None:
    served.start()
    served.work(DRAWING)

    async def use() -> list[str]:
        async with AsyncClient(served.url) as client:
            job = await client.submit(picture_bytes())
            return [event.status async for event in job.events()]

    assert in_a_loop(use)[-1] == "completed"


def test_a_connection_that_ends_early_is_made_again_with_what_was_seen(
    monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    note_pauses(monkeypatch, lambda _: None)
    with (
        answering(
            (200, {}, EVENT.format(id="a", status="queued")),
            (503, {"retry-after": "0"}, '{"error": "Full.", "code": "busy"}'),
            (200, {}, EVENT.format(id="b", status="completed")),
        ) as (url, asked),
        served.start() as client,
    ):
        client._address = type(client._address)(url, None)
        assert [event.status for event in client.job("job-1").events()] == ["queued", "completed"]
    assert len(asked) == 3


def test_the_next_request_names_the_last_event() -> None:
    reader = EventReader("job-1", 30)
    assert "last-event-id" not in reader.request().headers
    for line in EVENT.format(id="a-1", status="queued").split("\n"):
        reader.read(line)
    assert reader.request().headers["last-event-id"] == "a-1"
    assert not reader.is_over


def test_comments_and_unknown_fields_are_nothing() -> None:
    reader = EventReader("job-1", 30)
    assert [reader.read(line) for line in (": still here", "", "retry: 1000", "", "x: y", "")] == (
        [None] * 6
    )


def test_a_refusal_that_stays_and_a_time_that_is_used_up_are_raised() -> None:
    busy = httpx.Response(
        503, json={"error": "Full.", "code": "busy"}, request=httpx.Request("GET", "http://a/")
    )
    reader = EventReader("job-1", 0)
    reader.answered(busy)
    with pytest.raises(Busy):
        reader.pause(busy)
    with pytest.raises(ConnectionFailed, match="/jobs/job-1/events"):
        reader.pause(None)


def test_what_is_no_event_is_named() -> None:
    reader = EventReader("job-1", 30)
    reader.read("data: [1]")
    with pytest.raises(UnexpectedAnswer):
        reader.read("")
