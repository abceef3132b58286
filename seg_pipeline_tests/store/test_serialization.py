"""Records as JSON: to the letter what is in stores already, and readable across versions."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import pytest

from seg_pipeline.domain import Job, Moment
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.deliveries import Delivery
from seg_pipeline.jobs.heartbeats import WorkerHeartbeat
from seg_pipeline.jobs.parked_notes import ParkedNote
from seg_pipeline.jobs.records import Result, StoredResult
from seg_pipeline.store import Store
from seg_pipeline.store.serialization import (
    OPTIONAL,
    UnreadableRecord,
    load,
    read,
    to_document,
    write,
)
from seg_pipeline_tests.builders import NOON, make_job

OLD_STORE = json.loads((Path(__file__).parent / "store_without_format.json").read_text())
KINDS = {
    "result.json": Result,
    "request.json": Job,
    "delivery.json": Delivery,
    "inflight/": Claim,
    "workers/": WorkerHeartbeat,
    "parked/": ParkedNote,
}
OLD_RECORDS = [
    pytest.param(kind, text, id=key)
    for key, text in OLD_STORE.items()
    for part, kind in KINDS.items()
    if key.endswith(part) or key.startswith(part)
]


@dataclass(frozen=True)
class Note:
    """A record of every kind of field."""

    text: str
    at: Moment = NOON
    extra: Annotated[str | None, OPTIONAL] = None


@pytest.mark.parametrize(("kind", "text"), OLD_RECORDS)
def test_records_of_an_older_version_lose_nothing(kind: type, text: str) -> None:
    """Keys that came later are the only news."""
    old, new = json.loads(text), to_document(read(kind, text.encode()))
    assert {name: new[name] for name in old} == old
    assert [name for name in new if name in old] == [*old]


def test_a_result_is_written_to_the_letter_as_it_was() -> None:
    text = OLD_STORE["assets/delivered/result.json"]
    assert write(read(Result, text.encode())) == text.encode()


@pytest.mark.parametrize("uuid", ["delivered", "parked", "put-off", "to-tell", "failed-to-tell"])
def test_a_delivery_still_knows_its_result(uuid: str) -> None:
    """Else everybody would be told once more after an upgrade."""
    text = OLD_STORE[f"assets/{uuid}/result.json"].encode()
    delivery = read(Delivery, OLD_STORE[f"assets/{uuid}/delivery.json"].encode())
    assert StoredResult(read(Result, text), text).sha256 == delivery.result_sha256
    assert StoredResult.of(read(Result, text)).sha256 == delivery.result_sha256


def test_a_result_with_keys_of_a_newer_version_is_known_by_all_of_them() -> None:
    text = OLD_STORE["assets/delivered/result.json"]
    newer = json.dumps({**json.loads(text), "mood": "good"}).encode()
    assert read(Result, newer) == read(Result, text.encode())
    assert (
        StoredResult(read(Result, newer), newer).sha256
        != StoredResult.of(read(Result, newer)).sha256
    )


def test_times_are_written_in_utc_with_their_offset() -> None:
    assert write(Note("a")) == b'{"text":"a","at":"2026-01-02T12:00:00+00:00"}'
    elsewhere = timezone(timedelta(hours=2))
    text = json.dumps({"text": "a", "at": NOON.astimezone(elsewhere).isoformat()})
    assert read(Note, text.encode()) == Note("a")
    assert read(Note, text.encode()).at.tzinfo is UTC


def test_an_optional_key_is_there_only_with_a_value() -> None:
    assert "extra" not in to_document(Note("a"))
    assert to_document(Note("a", extra="b"))["extra"] == "b"


def test_text_that_is_no_text_survives() -> None:
    """A message may have half a pair of surrogates, which UTF-8 cannot hold."""
    note = Note("\ud800 and ü")
    assert read(Note, write(note)) == note


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b'{"text": "a", "at": "noon"}']
)
def test_what_is_no_such_record_is_told_without_its_content(store: Store, data: bytes) -> None:
    with pytest.raises(UnreadableRecord, match="this is no Note: "):
        read(Note, data)
    store.put("state/note", data)
    assert load(store, Note, "state/note") is None


def test_what_a_record_itself_refuses_is_unreadable_too() -> None:
    broken = json.dumps({**to_document(make_job()), "uuid": "../a"}).encode()
    with pytest.raises(UnreadableRecord, match="this is no Job"):
        read(Job, broken)


def test_a_missing_record_is_none(store: Store) -> None:
    assert load(store, Note, "state/note") is None
    store.put("state/note", write(Note("a", datetime(2026, 5, 6, tzinfo=UTC))))
    assert load(store, Note, "state/note") == Note("a", datetime(2026, 5, 6, tzinfo=UTC))
