"""Pauses between attempts."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from seg_client.retries import Deadline, passes, pause_seconds, retry_after_seconds


@pytest.mark.parametrize(
    ("value", "seconds"), [("5", 5.0), ("0", 0.0), ("", None), ("soon", None), ("-1", None)]
)
def test_seconds_are_read(value: str, seconds: float | None) -> None:
    assert retry_after_seconds(value) == seconds


def test_a_date_is_read_and_one_that_is_past_is_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3500 < (retry_after_seconds(soon) or 0) <= 3600
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_the_service_says_how_long_to_wait() -> None:
    assert pause_seconds(0, httpx.Response(503, headers={"retry-after": "7"})) == 7


def test_pauses_grow_up_to_a_bound() -> None:
    assert pause_seconds(0, None) <= 0.25 < pause_seconds(3, None) <= 2
    assert 4 <= pause_seconds(1000, None) <= 8


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [
        ("busy", 503, True),
        ("weights_missing", 503, False),  # the job has failed, and stays so
        ("fetch_unavailable", 502, False),
        (None, 502, True),
        (None, 500, False),
        (None, 404, False),
    ],
)
def test_what_passes_is_tried_again(code: str | None, status: int, again: bool) -> None:
    assert passes(code, status) is again


def test_a_deadline_of_no_time_has_passed() -> None:
    assert Deadline(0).left <= 0 < Deadline(60).left
