"""Every promise of docs/callbacks.md is held by a test: by one that stands elsewhere, or by one of
those below."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from seg_pipeline.adapters import outbox_relay
from seg_pipeline.jobs.deliveries import Policy
from seg_pipeline.jobs.records import completed_result
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.adapters.test_outbox_relay import (
    Clock,
    deliver_for,
    end_jobs,
    make_courier,
)
from seg_pipeline_tests.app_servers import Answer, app_server, say
from seg_pipeline_tests.builders import make_found, make_queue_job, make_timing
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "docs/callbacks.md").read_text(encoding="utf-8")

SERVER, RELAY = "adapters/test_app_server.py", "adapters/test_outbox_relay.py"
QUEUE, OUTBOX = "adapters/test_queue_to_callback.py", "jobs/test_outbox.py"
HERE = "adapters/test_callbacks_document.py"

PROMISES = {
    "The path, the content type and the key are those above.":
        (SERVER, "test_the_patch_has_the_seeds_path_header_and_body"),
    "Without a key or a secret, no header speaks of them.":
        (SERVER, "test_without_key_and_secret_no_header_speaks_of_them"),
    "The body has `uuid`, `status` and `segments`, and every field is in the schema.":
        (SERVER, "test_every_payload_fits_the_schema_in_docs"),
    "A job in which nothing was found is `completed` with `segments: []`.":
        (HERE, "test_a_job_in_which_nothing_was_found_is_told_as_completed"),
    'A job that failed is `failed`, with `segments: []` and `"error": {"code", "message"}`.':
        (RELAY, "test_a_failed_job_is_told_with_its_reason"),
    "A job that asked for `rle` has it in every segment.":
        (HERE, "test_a_job_that_asked_for_run_lengths_is_told_with_them"),
    "The uuid is the app server's own, even if a client of the API had taken it for another"
    " picture.":
        (RELAY, "test_a_job_whose_uuid_a_client_had_taken_is_told_under_that_uuid"),
    "Links of such a job show a uuid of its own (`queue-` and a hash).":
        (RELAY, "test_a_job_whose_uuid_a_client_had_taken_is_told_under_that_uuid"),
    "The table holds for every status.":
        (HERE, "test_every_status_ends_as_the_table_says"),
    "The answer's body is ignored, even if it never ends.":
        (SERVER, "test_an_answer_counts_though_its_body_never_ends"),
    "A parked delivery keeps what the app server said.":
        (RELAY, "test_a_refusal_is_parked_at_once_and_says_nothing_about_the_server"),
    "An answer has 15 s, whatever the time goes into: the name, the connection, the head.":
        (SERVER, "test_an_answer_within_the_15_seconds_of_the_document_counts"),
    "A redirect is never followed, because the API key would go along.":
        (SERVER, "test_a_redirect_is_not_followed_because_the_key_would_go_along"),
    "The pauses between the tries of a delivery grow from a second to ten minutes, at random below"
    " a bound that doubles.":
        ("jobs/test_deliveries.py", "test_pauses_grow_from_seconds_to_ten_minutes"),
    "A `Retry-After` makes a pause longer, up to an hour; it may be seconds or a date.":
        (SERVER, "test_retry_after_is_read_as_seconds_or_as_a_date"),
    "A delivery that is older than `CALLBACK_GIVE_UP_SECONDS` (a day) is parked at its next turn.":
        (HERE, "test_a_delivery_is_parked_after_a_day_and_kept_for_a_week"),
    "Four deliveries are under way at once, and not more.":
        (RELAY, "test_a_few_are_under_way_at_once_and_not_more"),
    "Three failures in a row count as an outage.":
        (HERE, "test_three_failures_in_a_row_are_an_outage"),
    "During an outage one delivery at a time is tried, and the others wait untouched.":
        (HERE, "test_during_an_outage_the_others_wait_untouched"),
    "During an outage the pause between two tries is at most 30 s, or as long as the last answer's"
    " `Retry-After` asks for, up to an hour.":
        (HERE, "test_the_pause_of_an_outage_is_bounded_and_longer_if_it_is_asked_for"),
    "After an outage everything goes out in the order in which the jobs ended.":
        (RELAY, "test_an_app_server_down_for_ten_minutes_gets_every_result_in_order"),
    "A delivery that fails for reasons of its own delays no other.":
        (RELAY, "test_one_that_always_fails_does_not_hold_up_the_others"),
    "The same PATCH comes twice if the service died between sending it and recording that.":
        (HERE, "test_a_patch_whose_record_was_lost_comes_twice_with_the_same_body"),
    "A PATCH that comes twice has the same body.":
        (HERE, "test_a_patch_whose_record_was_lost_comes_twice_with_the_same_body"),
    "A replayed delivery is sent again.":
        (RELAY, "test_a_parked_one_that_is_replayed_arrives"),
    "A job that an operator runs again is told again, with its new result.":
        (HERE, "test_a_job_that_is_run_again_is_told_with_its_new_result"),
    "The code above accepts what the service sends, and no changed body.":
        (SERVER, "test_the_documents_own_check_of_the_signature_works"),
    "`seg_pipeline.adapters.app_server.verify` does the same, and refuses a PATCH of five minutes"
    " ago.":
        (SERVER, "test_an_old_patch_does_not_verify_though_it_is_ours"),
    "Each try is signed anew.":
        (SERVER, "test_each_try_is_signed_anew"),
    "The delivery is recorded (`delivery.json`) with the job's end, before the first try.":
        (OUTBOX, "test_the_end_of_a_queues_job_is_recorded_with_it"),
    "A service that is started again goes on where the old process was.":
        (RELAY, "test_a_restarted_courier_goes_on_where_the_old_one_was"),
    "A process that is killed at any write loses no delivery.":
        (OUTBOX, "test_a_process_killed_at_any_write_of_the_end_loses_no_delivery"),
    "What is delivered late keeps its files for another `ttl_seconds`.":
        (OUTBOX, "test_what_is_delivered_late_keeps_its_files_for_its_time_to_live"),
    "What is parked keeps its files for `PARKED_TTL_SECONDS` (a week).":
        ("defs/test_pruning.py", "test_a_parked_delivery_is_kept_for_a_week_to_be_replayed"),
    "A green partition of the asset `callback` is a job that the app server knows of.":
        ("defs/test_queue_sensors.py",
         "test_a_partition_turns_green_when_the_app_server_knows"),
    "A parked delivery has an observation with the reason in Dagster, and is not green.":
        ("defs/test_queue_sensors.py",
         "test_a_parked_delivery_is_observed_with_its_reason_and_not_green"),
    "`GET /parked` lists parked deliveries with their reasons.":
        ("api/routes/test_parked.py", "test_parked_things_are_listed_in_pages"),
    "`POST /jobs/{uuid}/callback` sends a delivery again.":
        (QUEUE, "test_a_refused_callback_is_replayed_by_the_api"),
    "Materialising a partition of `callback` in the Dagster UI sends it again.":
        ("defs/test_assets.py", "test_materialising_callback_tells_once_more"),
}  # fmt: skip
"""What the document promises, word for word, and a test that fails if it is broken."""


def promises_of_the_document() -> set[str]:
    """Its list items, each on one line."""
    prose = re.sub(r"```.*?```", "", DOCUMENT, flags=re.DOTALL)
    items = re.findall(r"^- (.+(?:\n  .+)*)", prose, flags=re.MULTILINE)
    return {re.sub(r"\s+", " ", item) for item in items}


def rows_of_the_document() -> list[str]:
    """The left column of its table of answers."""
    return re.findall(r"^\| (.+?) \| [DFT]", DOCUMENT, flags=re.MULTILINE)


def test_every_promise_of_the_document_has_a_test() -> None:
    assert promises_of_the_document() == PROMISES.keys()


@pytest.mark.parametrize("place", sorted(set(PROMISES.values())), ids=lambda place: place[1])
def test_the_test_of_a_promise_exists(place: tuple[str, str]) -> None:
    file, name = place
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def repository() -> JobRepository:
    return JobRepository(ObjectStore.in_memory())


@pytest.fixture
def clock() -> Clock:
    return Clock()


def end_job_with(
    repository: JobRepository, clock: Clock, *drawings: str, **requested: object
) -> None:
    """Takes a job of the queue to its end, with a segment for each mask that is drawn."""
    job = repository.acceptance.accept(make_queue_job("job-1", **requested)).job
    timing = make_timing(completed_at=clock())
    repository.results.finish(completed_result(job, make_found(*drawings), timing))
    clock.catch_up()


def test_a_job_in_which_nothing_was_found_is_told_as_completed(
    repository: JobRepository, clock: Clock
) -> None:
    end_job_with(repository, clock)
    with app_server() as server:
        make_courier(repository.store, server.url, clock).deliver()
    assert server.told[0].document == {"uuid": "job-1", "status": "completed", "segments": []}


def test_a_job_that_asked_for_run_lengths_is_told_with_them(
    repository: JobRepository, clock: Clock
) -> None:
    end_job_with(repository, clock, "#..#/####", ".##./....", rle=True)
    with app_server() as server:
        make_courier(repository.store, server.url, clock).deliver()
    segments = server.told[0].document["segments"]
    assert len(segments) == 2
    assert all(segment["rle"]["counts"] for segment in segments)


@pytest.mark.parametrize("status", [*range(200, 206), *range(300, 309), *range(400, 430),
                                    *range(500, 512)])  # fmt: skip
def test_every_status_ends_as_the_table_says(
    status: int, repository: JobRepository, clock: Clock
) -> None:
    """The numbers are those of the document."""
    delivered, refused, again = rows_of_the_document()
    assert (delivered, refused.split(",")[0], again.split(":")[0]) == (
        "2xx",
        "4xx",
        "anything else",
    )
    exceptions = {int(number) for number in re.findall(r"\d{3}", refused)}
    (uuid,) = end_jobs(repository, 1, clock)
    with app_server(say(status, b"")) as server:
        make_courier(repository.store, server.url, clock).deliver()
    delivery = repository.outbox.delivery(uuid)
    is_final = 400 <= status < 500 and status not in exceptions
    expected = "delivered" if status < 300 else "parked" if is_final else "pending"
    assert delivery
    assert str(delivery.state) == expected


@pytest.mark.process
def test_a_delivery_is_parked_after_a_day_and_kept_for_a_week(
    repository: JobRepository, clock: Clock
) -> None:
    """By the defaults, which the document quotes. It is tried until then."""
    assert Settings.model_fields["callback_give_up_seconds"].default == 86_400
    assert Settings.model_fields["parked_ttl_seconds"].default == 7 * 86_400
    (uuid,) = end_jobs(repository, 1, clock)
    with app_server(say(500)) as server:
        relay = make_courier(repository.store, server.url, clock)
        deliver_for(relay, clock, 86_400 - 600, step=600)
        before = repository.outbox.delivery(uuid)
        deliver_for(relay, clock, 1800, step=60)
    after = repository.outbox.delivery(uuid)
    assert before
    assert after
    assert (str(before.state), str(after.state)) == ("pending", "parked")
    assert after.due_at
    assert after.due_at - after.attempts[-1].at == timedelta(days=7)


def test_three_failures_in_a_row_are_an_outage(repository: JobRepository, clock: Clock) -> None:
    end_jobs(repository, 1, clock)
    with app_server(say(500)) as server:
        relay = make_courier(repository.store, server.url, clock)
        seen = []
        for _ in range(3):
            relay.deliver()
            seen.append(relay.thinks_it_is_down)
            clock.pass_seconds(600)
    assert seen == [False, False, True]


def test_during_an_outage_the_others_wait_untouched(
    repository: JobRepository, clock: Clock
) -> None:
    with app_server(say(500)) as server:
        end_jobs(repository, 30, clock)
        relay = make_courier(repository.store, server.url, clock)
        relay.deliver()
        begun = set(server.uuids())
        for number in range(1, 5):
            clock.pass_seconds(31)
            relay.deliver()
            assert server.most_at_once <= outbox_relay.AT_ONCE
            assert len(server.told) == len(begun) + number
    untouched = {f"job-{number:02}" for number in range(30)} - set(server.uuids())
    assert len(untouched) >= 30 - len(begun) - 4
    assert {(repository.outbox.delivery(uuid) or pytest.fail(uuid)).attempt_count
            for uuid in untouched} == {0}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "longest"),
    [
        (say(503), outbox_relay.LONGEST_PROBE_PAUSE_SECONDS),
        (say(503, retry_after="5"), outbox_relay.LONGEST_PROBE_PAUSE_SECONDS),
        (say(503, retry_after="600"), 600),
        (say(503, retry_after="90000"), Policy(1, 1).longest_retry_after_seconds),
    ],
    ids=["no wish", "a wish below it", "a wish above it", "an impudent wish"],
)
def test_the_pause_of_an_outage_is_bounded_and_longer_if_it_is_asked_for(
    repository: JobRepository, clock: Clock, answer: Answer, longest: float
) -> None:
    """The bounds are those of the document: 30 s, and an hour."""
    assert outbox_relay.LONGEST_PROBE_PAUSE_SECONDS == 30
    assert Policy(1, 1).longest_retry_after_seconds == 3600
    end_jobs(repository, 60, clock)
    with app_server(answer) as server:
        relay = make_courier(repository.store, server.url, clock)
        pauses = []
        for _ in range(12):
            relay.deliver()
            pauses.append(relay.wait_seconds())
            clock.pass_seconds(relay.wait_seconds())
    assert relay.thinks_it_is_down
    assert max(pauses) == pytest.approx(longest)


def test_a_patch_whose_record_was_lost_comes_twice_with_the_same_body(
    repository: JobRepository, clock: Clock
) -> None:
    """The process dies at its first write, which comes after the PATCH."""
    end_jobs(repository, 1, clock)
    with app_server() as server:
        with pytest.raises(Killed):
            make_courier(UnreliableStore(repository.store, 0), server.url, clock).deliver()
        make_courier(repository.store, server.url, clock).deliver()
    first, second = server.told
    assert first.body == second.body


def test_a_job_that_is_run_again_is_told_with_its_new_result(
    repository: JobRepository, clock: Clock
) -> None:
    end_job_with(repository, clock, "#..#/####")
    with app_server() as server:
        relay = make_courier(repository.store, server.url, clock)
        relay.deliver()
        end_job_with(repository, clock)
        relay.deliver()
    assert [len(told.document["segments"]) for told in server.told] == [1, 0]
