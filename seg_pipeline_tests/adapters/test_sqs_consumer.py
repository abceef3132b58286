"""From a queue, as a moto server speaks SQS over HTTP, into the inbox: nothing lost, doubled or
looping."""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from seg_pipeline.adapters import sqs_consumer
from seg_pipeline.adapters.sqs_consumer import MAX_BODY_BYTES, Pulled, SqsConsumer, parse_message
from seg_pipeline.domain import Job, queue_uuid
from seg_pipeline.errors import InvalidRequest, QueueUnavailable, StoreFull, StoreUnavailable
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.jobs.kept_pictures import kept_picture
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.api.serving import api_settings, serving
from seg_pipeline_tests.aws import REGION
from seg_pipeline_tests.builders import (
    end_queue_job,
    make_job,
    make_picture,
    picture_bytes,
    waiting_uuids,
)
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.serving import HOLDING, Talk, wire_server
from seg_pipeline_tests.unreliable import Killed, UnreliableStore

pytestmark = pytest.mark.process

URL = "https://cdn.example.com/images/sample.jpg"


@dataclass
class Queue:
    """A queue of its own, seen from the app server's side."""

    client: Any
    url: str
    settings: Settings
    repository: JobRepository

    def send(self, *bodies: Any) -> None:
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            self.client.send_message(QueueUrl=self.url, MessageBody=text)

    def pull(self, store: Store | None = None) -> Pulled:
        return SqsConsumer(self.settings, JobRepository(store) if store else self.repository).pull(
            0
        )

    def left(self, url: str = "") -> list[str]:
        """The bodies that are still in it; they are not taken out."""
        answer = self.client.receive_message(
            QueueUrl=url or self.url, MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return [message["Body"] for message in answer.get("Messages", [])]


@pytest.fixture
def client(aws_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return boto3.client("sqs", endpoint_url=aws_endpoint, region_name=REGION)


def make_queue(client: Any, endpoint: str, suffix: str = "", **attributes: str) -> str:
    """A queue that gives every message again at once, until it is deleted."""
    name = f"queue-{secrets.token_hex(6)}{suffix}"
    return str(
        client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "0", **attributes})[
            "QueueUrl"
        ]
    )


@pytest.fixture
def queue(client: Any, aws_endpoint: str, tmp_path: Path) -> Queue:
    url = make_queue(client, aws_endpoint)
    settings = make_settings(
        tmp_path,
        sqs_queue_url=url,
        sqs_endpoint_url=aws_endpoint,
        app_server_url="https://app.example",
    )
    return Queue(client, url, settings, JobRepository(ObjectStore.in_memory()))


def parked(queue: Queue) -> list[dict[str, Any]]:
    store = queue.repository.store
    return [json.loads(store.get(info.key)) for info in store.list(keys.PARKED)]


# What a message says


def parse(body: Any, **values: Any) -> Any:
    settings = make_settings(Path("nowhere"), **values)
    text = body if isinstance(body, str) else json.dumps(body)
    return parse_message(text, settings, ObjectStore.in_memory()).job


def test_the_seeds_message_is_a_job_with_our_defaults() -> None:
    job = parse({"uuid": "abc123", "image_url": URL}, app_server_url="https://app.example")
    assert (job.uuid, job.image_url, job.via, job.callback) == ("abc123", URL, "sqs", True)
    assert (job.model, job.ttl_seconds, job.resize) == ("sam2.1_hiera_large", 3600, None)


def test_a_message_may_ask_for_more() -> None:
    asked = {
        "uuid": "abc123",
        "imageUrl": "s3://bucket/a.png",
        "model": "demo-sam2",
        "resize": 256,
        "ttl_seconds": 60,
        "priority": "high",
    }
    job = parse({**asked, "something": "else"})
    assert (job.image_url, job.model, job.resize, job.ttl_seconds) == (
        "s3://bucket/a.png",
        "demo-sam2",
        256,
        60,
    )
    assert job.priority == "high"


def test_a_message_may_set_parameters_of_the_queues_model_and_ask_for_run_lengths() -> None:
    job = parse({**GOOD, "parameters": {"points_per_side": 8, "use_m2m": True}, "rle": True})
    assert (job.model, job.parameters, job.rle) == (
        "sam2.1_hiera_large",
        {"points_per_side": 8, "use_m2m": 1},
        True,
    )


def test_null_is_as_good_as_nothing() -> None:
    job = parse({"uuid": "abc123", "image_url": URL, "imageUrl": None, "model": None,
                 "resize": None,
                 "parameters": None, "rle": None})  # fmt: skip
    assert job.model == "sam2.1_hiera_large"


def test_both_spellings_may_be_there_if_they_agree() -> None:
    assert parse({"uuid": "abc123", "image_url": URL, "imageUrl": URL}).image_url == URL


def test_nobody_is_told_where_there_is_no_app_server() -> None:
    assert not parse({"uuid": "abc123", "image_url": URL}).callback


GOOD = {"uuid": "abc123", "image_url": URL}
BAD = {
    "nothing": "",
    "no json": "hello",
    "half of it": '{"uuid": "abc123", "image_url": "https://cdn',
    "a list": [GOOD],
    "a string": '"abc123"',
    "null": "null",
    "an empty object": {},
    "no uuid": {"image_url": URL},
    "a null uuid": {**GOOD, "uuid": None},
    "a number for a uuid": {**GOOD, "uuid": 123},
    "an empty uuid": {**GOOD, "uuid": ""},
    "a path for a uuid": {**GOOD, "uuid": "../../etc/passwd"},
    "a path in a uuid": {**GOOD, "uuid": "a/../b"},
    "a uuid with a line end": {**GOOD, "uuid": "abc\n"},
    "a uuid too long": {**GOOD, "uuid": "a" * 65},
    "no picture": {"uuid": "abc123"},
    "two pictures": {**GOOD, "imageUrl": URL + "x"},
    "a list of pictures": {**GOOD, "image_url": [URL]},
    "an empty address": {**GOOD, "image_url": ""},
    "no address": {**GOOD, "image_url": "sample.jpg"},
    "a file": {**GOOD, "image_url": "file:///etc/passwd"},
    "a surrogate in the address": '{"uuid": "abc123", "image_url": "https://cdn.example/\\ud800"}',
    "a zero in the address": {**GOOD, "image_url": URL + "\0"},
    "an unknown model": {**GOOD, "model": "gpt"},
    "a path for a model": {**GOOD, "model": "../weights.pt"},
    "a size as text": {**GOOD, "resize": "256"},
    "a broken size": {**GOOD, "resize": 25.5},
    "a yes for a size": {**GOOD, "resize": True},
    "a size of nothing": {**GOOD, "resize": 0},
    "a huge size": {**GOOD, "resize": 10**6},
    "a huge number": (
        '{"uuid": "abc123", "image_url": "https://a.example/", "resize": ' + "9" * 5000 + "}"
    ),
    "no number": '{"uuid": "abc123", "image_url": "https://a.example/", "ttl_seconds": NaN}',
    "a time in the past": {**GOOD, "ttl_seconds": -1},
    "a time without end": {**GOOD, "ttl_seconds": 10**9},
    "no parameters": {**GOOD, "parameters": "points_per_side"},
    "a parameter past its limit": {**GOOD, "parameters": {"points_per_side": 1000}},
    "a parameter that is no number": (
        '{"uuid": "a", "image_url": "https://a.example/", "parameters": {"pred_iou_thresh": NaN}}'
    ),
    "a parameter of another model": {**GOOD, "parameters": {"confidence": 0.5}},
    "work for hours": {**GOOD, "parameters": {"points_per_side": 64, "crop_n_layers": 2}},
    "no priority": {**GOOD, "priority": "urgent"},
    "a text for run lengths": {**GOOD, "rle": "true"},
    "an address and a kept picture": {**GOOD, "image_of": "abc"},
    "a path for a kept picture": {"uuid": "abc123", "image_of": "../abc"},
    "too much": {**GOOD, "note": "x" * 2**16},
    "too deep": "[" * 30_000 + "]" * 30_000,
    "too deep within": '{"uuid": "abc123", "a": ' + '{"a":' * 5_000 + "1" + "}" * 5_001,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_what_can_never_be_a_job_says_why(body: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(body)
    assert 10 < len(str(raised.value)) < 700


# Into the inbox


def waiting(queue: Queue) -> list[str]:
    """Jobs that wait for their picture, or for a run."""
    return [*queue.repository.fetches.uuids(), *waiting_uuids(queue.repository, 20)]


def test_messages_become_jobs_and_are_deleted(queue: Queue) -> None:
    queue.send(*({"uuid": f"job-{number}", "image_url": URL} for number in range(3)))
    pulled = queue.pull()
    assert (sorted(pulled.accepted), pulled.parked, pulled.left) == (
        ["job-0", "job-1", "job-2"],
        (),
        0,
    )
    assert sorted(waiting(queue)) == sorted(pulled.accepted)
    assert queue.repository.job("job-0").image_url == URL
    assert queue.left() == []


def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    assert queue.pull() == Pulled()


def test_ten_at_a_time(queue: Queue) -> None:
    queue.send(*({"uuid": f"job-{number}", "image_url": URL} for number in range(12)))
    counts = []
    while len(waiting(queue)) < 12:
        counts.append(len(queue.pull().accepted))
    assert (max(counts), sum(counts)) == (10, 12)


@pytest.mark.parametrize("stage", ["waiting", "in flight", "finished"])
def test_a_message_that_comes_again_changes_nothing(queue: Queue, stage: str) -> None:
    message = {"uuid": "job-1", "image_url": URL}
    queue.send(message)
    queue.pull()
    if stage != "waiting":
        queue.repository.claims.claim(["job-1"], "job-1:1")
    if stage == "finished":
        end_queue_job(queue.repository, image_url=URL, model="sam2.1_hiera_large")
    before = everything(queue)
    queue.send(message, message)
    while queue.left():
        assert not queue.pull().parked
    assert everything(queue) == before


def everything(queue: Queue) -> set[str]:
    prefixes = [keys.ASSETS, keys.INBOX, keys.INFLIGHT, keys.DONE, keys.OUTBOX, keys.PARKED]
    return {info.key for prefix in prefixes for info in queue.repository.store.list(prefix)}


def test_a_message_that_comes_again_after_our_defaults_changed_is_the_same_job(
    queue: Queue,
) -> None:
    """A new QUEUE_MODEL takes effect while messages are under way."""
    queue.send({"uuid": "job-1", "image_url": URL})
    queue.pull()
    changed = queue.settings.model_copy(
        update={"queue_model": "demo-sam2", "asset_ttl_seconds": 60}
    )
    queue.send({"uuid": "job-1", "image_url": URL})
    assert SqsConsumer(changed, queue.repository).pull(0) == Pulled(accepted=("job-1",))
    assert queue.repository.job("job-1").model == "sam2.1_hiera_large"


def test_parameters_of_another_model_than_the_first_messages_are_a_conflict_too(
    queue: Queue,
) -> None:
    queue.send({**GOOD, "model": "demo-yolo"})
    queue.pull()
    queue.send({**GOOD, "parameters": {"points_per_side": 8}})
    assert "exists with a different request" in queue.pull().parked[0]


@pytest.mark.parametrize("other", [{"image_url": URL + "?other"},
                                   {"image_url": URL, "model": "demo-sam2"},
                                   {"image_url": URL, "resize": 64},
                                   {"image_url": URL, "rle": True},
                                   {"image_url": URL,
                                    "parameters": {"points_per_side": 8}}])  # fmt: skip
def test_a_known_uuid_with_another_request_is_parked_and_the_first_goes_on(
    queue: Queue, other: Any
) -> None:
    queue.send({"uuid": "job-1", "image_url": URL})
    queue.pull()
    queue.send({"uuid": "job-1", **other})
    (reason,) = queue.pull().parked
    assert "exists with a different request" in reason
    assert (queue.repository.job("job-1").image_url, waiting(queue)) == (URL, ["job-1"])
    assert queue.left() == []


# On a picture that an earlier job brought

POINT = {"model": "demo-sam2", "parameters": {"points": [[3, 2, 1]]}}
PICTURE = picture_bytes(make_picture(8, 6))


def with_an_upload(queue: Queue, uuid: str = "first", data: bytes = PICTURE) -> None:
    job = make_job(uuid, source_sha256=fingerprint(data), model="demo-yolo")
    queue.repository.acceptance.accept(job, data)


def test_a_message_may_name_a_job_whose_picture_it_means(queue: Queue) -> None:
    with_an_upload(queue)
    message = {"uuid": "second", "image_of": "first", **POINT}
    queue.send(message)
    assert queue.pull() == Pulled(accepted=("second",))
    job = queue.repository.job("second")
    assert (job.via, job.callback, job.image_url) == ("sqs", True, None)
    assert b"".join(kept_picture(queue.repository.store, "second")) == PICTURE
    assert "second" in waiting_uuids(queue.repository, 10)
    queue.repository.removal.delete("first")
    queue.send(message)
    assert queue.pull() == Pulled(accepted=("second",)), "it has the picture itself by now"


def test_the_picture_is_that_of_the_app_servers_job_though_a_client_took_the_uuid(
    queue: Queue,
) -> None:
    with_an_upload(queue, "first", picture_bytes(make_picture(9, 9)))
    with_an_upload(queue, queue_uuid("first"))
    queue.send({"uuid": "second", "image_of": "first", **POINT})
    queue.pull()
    assert b"".join(kept_picture(queue.repository.store, "second")) == PICTURE


@pytest.mark.parametrize(
    "asked",
    [
        {"image_of": "nobody"},
        {"image_of": "../first"},
        {"image_of": "first", "image_url": URL},
        {"image_of": "first", **POINT, "parameters": {"points": [[8, 2, 1]]}},
        {"image_of": "first", **POINT, "model": "demo-yolo"},
        {"image_of": "first", "model": "gpt"},
    ],
)
def test_what_is_wrong_with_it_is_said_in_the_words_of_the_api(
    queue: Queue, tmp_path: Path, asked: dict[str, Any]
) -> None:
    with_an_upload(queue)
    queue.send({"uuid": "second", **asked})
    (reason,) = queue.pull().parked
    settings = api_settings(tmp_path, model=queue.settings.model)
    with serving(settings, queue.repository.store) as url:
        answer = httpx.post(f"{url}/jobs", json={"uuid": "second", **asked})
    assert (answer.json()["error"], answer.is_client_error) == (reason, True)
    assert queue.left() == []


# A uuid that a client took first


def as_a_client(queue: Queue, **asked: Any) -> Job:
    return queue.repository.acceptance.accept(
        make_job("job-1", **{"image_url": URL + "?mine", "model": "demo-yolo", **asked})
    ).job


@pytest.mark.parametrize(
    "asked",
    [{}, {"image_url": URL}, {"image_url": URL, "model": "sam2.1_hiera_large", "ttl_seconds": 1}],
)
def test_a_message_whose_uuid_a_client_has_taken_is_a_job_of_its_own(
    queue: Queue, asked: Any
) -> None:
    """Else anybody who guesses a uuid keeps the app server from its answer, or chooses its
    model."""
    clients = as_a_client(queue, **asked)
    queue.send({"uuid": "job-1", "image_url": URL})
    pulled = queue.pull()
    (uuid,) = pulled.accepted
    job = queue.repository.job(uuid)
    assert (pulled.parked, queue.left()) == ((), [])
    assert uuid != "job-1"
    assert (job.callback_uuid, job.image_url, job.model) == ("job-1", URL, "sam2.1_hiera_large")
    assert queue.repository.job("job-1") == clients
    assert set(waiting(queue)) == {"job-1", uuid}


def test_the_same_message_again_is_the_same_job_beside_the_clients(queue: Queue) -> None:
    as_a_client(queue)
    queue.send({"uuid": "job-1", "image_url": URL})
    first = queue.pull().accepted
    before = everything(queue)
    queue.send({"uuid": "job-1", "image_url": URL})
    assert queue.pull().accepted == first
    assert everything(queue) == before


def test_what_a_client_asked_to_the_letter_is_one_job_for_both(queue: Queue) -> None:
    as_a_client(queue, image_url=URL, model="sam2.1_hiera_large")
    queue.send({"uuid": "job-1", "image_url": URL})
    assert queue.pull().accepted == ("job-1",)
    assert queue.repository.job("job-1").callback == (queue.settings.app_server_url is not None)


# What can never become a job


def test_a_bad_message_is_parked_with_its_reason_and_does_not_come_back(queue: Queue) -> None:
    queue.send(
        '{"uuid": "../x", "image_url": "https://a.example/"}', {"uuid": "job-1", "image_url": URL}
    )
    pulled = [queue.pull() for _ in range(3)]
    assert [uuid for each in pulled for uuid in each.accepted] == ["job-1"]
    (note,) = parked(queue)
    assert note["code"] == "invalid_uuid"
    assert "'../x'" in note["reason"]
    assert json.loads(note["body"])["uuid"] == "../x"
    assert queue.left() == []


def test_an_endless_body_is_parked_in_part(queue: Queue) -> None:
    queue.send("x" * 200_000)
    queue.pull()
    assert len(parked(queue)[0]["body"]) == MAX_BODY_BYTES
    assert parked(queue)[0]["is_cut"]


def test_what_nobody_foresaw_is_parked_too(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sqs_consumer, "parse_message", stumble)
    queue.send({"uuid": "job-1", "image_url": URL})
    assert queue.pull().parked == (
        "the message could not be taken: an unexpected ZeroDivisionError occurred.",
    )
    assert queue.left() == []
    assert "ZeroDivisionError" in caplog.text


@pytest.fixture
def dead_letters(queue: Queue, aws_endpoint: str) -> str:
    """The URL of the queue's dead-letter queue."""
    url = make_queue(queue.client, aws_endpoint)
    arn = queue.client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "100"})
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"RedrivePolicy": policy})
    return url


def test_a_bad_message_goes_to_the_dead_letter_queue_with_its_reason(
    queue: Queue, dead_letters: str
) -> None:
    queue.send("hello \N{SNOWMAN}")
    queue.pull()
    (message,) = queue.client.receive_message(QueueUrl=dead_letters, MessageAttributeNames=["All"])[
        "Messages"
    ]
    assert message["Body"] == "hello \N{SNOWMAN}"
    assert message["MessageAttributes"]["reason"]["StringValue"].startswith(
        "the message is no JSON object"
    )
    assert (len(parked(queue)), queue.left()) == (1, [])


def test_a_dead_letter_queue_of_a_fifo_queue_takes_it_too(
    client: Any, aws_endpoint: str, tmp_path: Path
) -> None:
    dead = make_queue(client, aws_endpoint, ".fifo", FifoQueue="true")
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 100})
    url = make_queue(client, aws_endpoint, ".fifo", FifoQueue="true", RedrivePolicy=policy)
    settings = make_settings(tmp_path, sqs_queue_url=url, sqs_endpoint_url=aws_endpoint)
    queue = Queue(client, url, settings, JobRepository(ObjectStore.in_memory()))
    client.send_message(
        QueueUrl=url, MessageBody="hello", MessageGroupId="1", MessageDeduplicationId="1"
    )
    queue.pull()
    assert (queue.left(dead), queue.left()) == (["hello"], [])


def test_a_dead_letter_queue_that_is_gone_keeps_nothing_from_being_parked(
    queue: Queue, dead_letters: str
) -> None:
    queue.client.delete_queue(QueueUrl=dead_letters)
    queue.send("hello")
    assert len(queue.pull().parked) == 1
    assert (len(parked(queue)), queue.left()) == (1, [])


# Our own bad days


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [StoreUnavailable("it is away."), StoreFull("no space left.")])
@pytest.mark.parametrize("body", [json.dumps(GOOD), "hello"], ids=["a job", "no job"])
def test_while_the_store_is_away_messages_stay_in_the_queue(
    queue: Queue, body: str, error: StoreUnavailable, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send(body)
    with monkeypatch.context() as patched:
        for write in ("put", "create"):
            patched.setattr(queue.repository.store, write, failing(error))
        assert queue.pull() == Pulled(left=1, problem=error)
    assert queue.left() == [body]
    pulled = queue.pull()
    assert len(pulled.accepted + pulled.parked) == 1
    assert queue.left() == []


def test_what_was_taken_before_the_store_went_away_is_deleted(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send(*({"uuid": f"job-{number}", "image_url": URL} for number in range(3)))
    accept, calls = queue.repository.acceptance.accept, []

    def accept_one(job: Any, data: None) -> Any:
        calls.append(job)
        if len(calls) > 1:
            raise StoreUnavailable("it is away.")
        return accept(job, data)

    monkeypatch.setattr(queue.repository.acceptance, "accept", accept_one)
    pulled = queue.pull()
    assert (len(pulled.accepted), pulled.left) == (1, 2)
    assert json.dumps({"uuid": pulled.accepted[0], "image_url": URL}) not in queue.left()


@pytest.mark.parametrize("lives", range(4))
@pytest.mark.parametrize("body", [json.dumps(GOOD), "hello"], ids=["a job", "no job"])
def test_a_process_killed_at_any_write_loses_and_doubles_nothing(
    queue: Queue, body: str, lives: int
) -> None:
    queue.send(body)
    try:
        queue.pull(UnreliableStore(queue.repository.store, lives))
    except Killed:
        assert queue.left() == [body]
        queue.pull()
    assert queue.left() == []
    assert (waiting(queue), len(parked(queue))) == ((["abc123"], 0) if body != "hello" else ([], 1))


def test_a_process_killed_before_it_deletes_meets_its_message_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send(GOOD)
    with monkeypatch.context() as patched:
        patched.setattr(SqsConsumer, "_delete", failing(KeyboardInterrupt()))  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            queue.pull()
    assert waiting(queue) == ["abc123"]
    assert queue.pull().accepted == ("abc123",)
    assert (queue.left(), waiting(queue)) == ([], ["abc123"])


# The queue's bad days


def pull_from(tmp_path: Path, **values: Any) -> None:
    settings = make_settings(tmp_path, **values)
    SqsConsumer(settings, JobRepository(ObjectStore.in_memory())).pull(0)


def test_a_queue_that_is_not_there_is_told_in_one_sentence(
    client: Any, aws_endpoint: str, tmp_path: Path
) -> None:
    url = f"{aws_endpoint}/123456789012/nobody"
    with pytest.raises(QueueUnavailable, match=r"cannot be used: .*does not exist"):
        pull_from(tmp_path, sqs_queue_url=url, sqs_endpoint_url=aws_endpoint)


def test_a_server_that_is_away_is_told(client: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(QueueUnavailable, match="Could not connect"):
        pull_from(tmp_path, sqs_queue_url=f"{endpoint}/1/q", sqs_endpoint_url=endpoint)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see `within`
@pytest.mark.parametrize("hold", HOLDING)
def test_a_queue_that_holds_us_is_left(client: Any, tmp_path: Path, hold: Talk) -> None:
    """A sensor's tick waits for it, and botocore's own time-outs begin anew with every byte."""
    with wire_server(hold) as address:
        settings = make_settings(
            tmp_path, sqs_queue_url=f"{address}/1/jobs", sqs_endpoint_url=address
        )
        consumer = SqsConsumer(settings, JobRepository(ObjectStore.in_memory()), answer_seconds=0.5)
        with pytest.raises(QueueUnavailable, match=r"no end within 0\.5 s"):
            consumer.pull(0)
    # The thread that was left may stay for as long as the server keeps it, and no longer.
    assert eventually_no_thread("within a deadline")


def eventually_no_thread(name: str) -> bool:
    """Whether threads of that name are gone within 40 s."""
    give_up_at = time.monotonic() + 40
    while any(thread.name == name for thread in threading.enumerate()):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def test_missing_credentials_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_credentials(tmp_path, monkeypatch)
    with pytest.raises(QueueUnavailable, match="credentials"):
        pull_from(
            tmp_path, sqs_queue_url="http://127.0.0.1:9/1/q", sqs_endpoint_url="http://127.0.0.1:9"
        )


def test_a_profile_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_credentials(tmp_path, monkeypatch)
    with pytest.raises(QueueUnavailable, match="somebody"):
        pull_from(tmp_path, sqs_queue_url="http://127.0.0.1:9/1/q", aws_profile="somebody")


def test_a_profile_in_the_home_folder_is_used(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_credentials(tmp_path, monkeypatch)
    (tmp_path / "credentials").write_text(
        "[mine]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    mine = queue.settings.model_copy(update={"aws_profile": "mine"})
    assert SqsConsumer(mine, queue.repository).pull(0) == Pulled()


def without_credentials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


@pytest.mark.parametrize(("url", "region"), [
    ("https://sqs.eu-west-1.amazonaws.com/123456789012/jobs", "eu-west-1"),
    ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/jobs", "cn-north-1"),
    ("http://localhost:9324/123456789012/jobs", "us-east-1"),
])  # fmt: skip
def test_the_queues_own_address_says_its_region(
    url: str, region: str, client: Any, tmp_path: Path
) -> None:
    consumer = SqsConsumer(
        make_settings(tmp_path, sqs_queue_url=url), JobRepository(ObjectStore.in_memory())
    )
    assert consumer._client.meta.region_name == region


def test_a_long_poll_gives_a_message_as_soon_as_it_comes(queue: Queue) -> None:
    from threading import Timer

    Timer(0.2, queue.send, [GOOD]).start()
    assert SqsConsumer(queue.settings, queue.repository).pull(20).accepted == ("abc123",)


def test_a_message_may_ask_for_prompts_and_named_masks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, queue_model="demo-sam2", model="demo-yolo")

    def job(**asked: Any) -> Job:
        body = {"uuid": "a", "image_url": URL, **asked}
        return parse_message(json.dumps(body), settings, ObjectStore.in_memory()).job

    prompt = {"points": [[3, 4.5, 1], [9, 9, 0]], "box": [0, 0, 20, 20]}
    assert job(parameters=prompt).parameters == {
        "points": ((3, 4.5, 1), (9, 9, 0)),
        "box": (0, 0, 20, 20),
    }
    assert job(model="sam2+yolo", parameters={"distinct": True}).model == "demo-sam2+demo-yolo"
    refused: list[dict[str, Any]] = [{"points": [[3, 4, 5]]}, {"points": []}, {"box": [1, 1, 1, 1]}]
    for wrong in refused:
        with pytest.raises(InvalidRequest) as error:
            job(parameters=wrong)
        assert error.value.code == "invalid_prompt"
    of_queue = make_settings(tmp_path, queue_model="sam2+yolo", model="demo-yolo")
    text = json.dumps({"uuid": "a", "image_url": URL})
    message = parse_message(text, of_queue, ObjectStore.in_memory())
    assert message.job.model == "demo-sam2+demo-yolo"
