"""What a client prefers (RFC 7240)."""

import pytest
from fastapi import Request

from api.result_polling import Preference, read_preference


def prefer(*headers: str) -> Request:
    return Request(
        {"type": "http", "headers": [(b"prefer", header.encode()) for header in headers]}
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), Preference(60, None)),
        (("",), Preference(60, None)),
        (("respond-async",), Preference(0, "respond-async")),
        (("RESPOND-ASYNC; foo=bar",), Preference(0, "respond-async")),
        (("wait=10",), Preference(10, "wait=10")),
        (("wait=1000",), Preference(60, "wait=60")),
        (("wait=0",), Preference(0, "wait=0")),
        (("respond-async, wait=10",), Preference(10, "wait=10")),
        (("respond-async", "wait=10"), Preference(10, "wait=10")),
        (('wait="10"',), Preference(10, "wait=10")),
        (("wait=-1",), Preference(60, None)),
        (("wait=1e9",), Preference(60, None)),
        (("wait=" + "9" * 10,), Preference(60, "wait=60")),
        (("wait=" + "9" * 5000,), Preference(60, "wait=60")),
        (("wait = 10",), Preference(10, "wait=10")),
        (("wait=10, wait=20",), Preference(10, "wait=10")),
        (("Wait=10; foo=bar",), Preference(10, "wait=10")),
        (("wait=1.5",), Preference(60, None)),
        (("handling=strict",), Preference(60, None)),
    ],
)
def test_the_prefer_header_is_read_as_the_rfc_has_it(
    headers: tuple[str, ...], expected: Preference
) -> None:
    assert read_preference(prefer(*headers), 60) == expected


def test_who_prefers_nothing_waits_as_is_usual_at_that_address() -> None:
    assert read_preference(prefer(), 60, usual_seconds=0) == Preference(0, None)
    assert read_preference(prefer("wait=5"), 60, usual_seconds=0) == Preference(5, "wait=5")
