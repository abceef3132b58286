"""Crowds, small ones, before a process of its own: what `make bench` measures with a thousand."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.crowds import (
    HALF_A_BODY,
    HALF_A_HEAD,
    SILENT,
    ask,
    holding,
    outcomes,
    upload_at_once,
)
from benchmarks.overload import PROBES, ServedApi, empty_segments, noise_png, padded, served_api

pytestmark = pytest.mark.slow

MIB = 2**20
PICTURE = noise_png(64)
LIMITS = {
    "MAX_CONNECTIONS": "128",
    "MAX_UPLOADS": "40",
    "MAX_UPLOADS_PER_CLIENT": "30",
    "MAX_WAITING": "16",
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ServedApi]:
    with served_api(
        tmp_path / "data", **LIMITS, MAX_WAITING_PER_CLIENT="16", MIN_FREE_BYTES="0"
    ) as api:
        yield api


@pytest.mark.parametrize(
    ("beginning", "drip"),
    [(SILENT, b""), (HALF_A_HEAD, b""), (HALF_A_BODY, b""), (HALF_A_BODY, b"x")],
)
def test_connections_that_ask_nothing_keep_nobody_out(
    api: ServedApi, beginning: bytes, drip: bytes
) -> None:
    """More than there may be of them; probes answer at once, and an upload as soon as a slow body
    has given way."""

    async def besides() -> list[int]:
        async with holding(api.url, 200, beginning, drip):
            statuses = [await ask(api.url, path) for path in PROBES]
            deadline = time.monotonic() + 60
            while not (await upload_at_once(api.url, [f"job-{time.time_ns()}"], PICTURE))[
                0
            ].is_accepted:
                assert time.monotonic() < deadline, "no upload was accepted"
                await asyncio.sleep(0.2)
            return statuses

    assert asyncio.run(besides()) == [200] * len(PROBES)


def test_of_many_uploads_at_once_each_is_kept_or_told_to_come_again(api: ServedApi) -> None:
    answers = asyncio.run(
        upload_at_once(api.url, [f"job-{number}" for number in range(100)], PICTURE)
    )
    assert outcomes(answers).keys() <= {"accepted", "told to come again"}
    assert outcomes(answers)["accepted"] >= 30
    assert api.lost(answers, PICTURE) == 0
    again = [answer.uuid for answer in answers if not answer.is_accepted][:30]
    assert outcomes(asyncio.run(upload_at_once(api.url, again, PICTURE))) == {
        "accepted": len(again)
    }


def test_large_uploads_are_not_held_in_memory(api: ServedApi) -> None:
    body = padded(32 * MIB - 1)
    before = api.peak_megabytes()
    answers = asyncio.run(upload_at_once(api.url, [f"job-{number}" for number in range(8)], body))
    assert outcomes(answers) == {"accepted": 8}
    assert api.lost(answers, body) == 0
    assert api.peak_megabytes() < before + 100 < 300


def test_a_header_without_end_costs_little(api: ServedApi) -> None:
    before = api.peak_megabytes()
    answers = asyncio.run(upload_at_once(api.url, ["a", "b", "c"], empty_segments(32 * MIB)))
    assert outcomes(answers) == {"refused with 413": 3}
    assert api.peak_megabytes() < before + 100 < 300


@pytest.mark.parametrize("megabytes", [33, 100])
@pytest.mark.parametrize("announced", [True, False])
def test_a_refusal_of_a_large_body_is_seen_by_who_sends_all_of_it_first(
    api: ServedApi, megabytes: int, announced: bool
) -> None:
    if megabytes == 100 and not announced:
        megabytes = 60  # nobody waits for the end of a body that may have none
    pieces = [bytes(MIB)] * megabytes
    response = httpx.post(
        f"{api.url}/segment", content=b"".join(pieces) if announced else iter(pieces), timeout=60
    )
    assert (response.status_code, response.json()["code"]) == (413, "image_too_large")
