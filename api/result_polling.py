"""Waits for a result without holding a thread, as long as the client prefers (RFC 7240)."""

import time
from dataclasses import dataclass

import anyio
from fastapi import Request

from api.admission import client_of
from api.error_responses import Busy, TooManyRequests
from api.service import Service, in_thread
from seg_pipeline.errors import StoreUnavailable
from seg_pipeline.jobs.records import Result

FIRST_PAUSE_SECONDS = 0.03
LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Preference:
    """How long the client wants to wait, and which of its preferences was granted."""

    seconds: float
    applied: str | None


def read_preference(
    request: Request, wait_seconds: float, usual_seconds: float | None = None
) -> Preference:
    """Reads the `Prefer` header. Without it the wait is `usual_seconds`, else `wait_seconds`.

    `respond-async` alone does not wait. `wait=N` waits at most N seconds, within the service's own
    limit. Both together wait N and then answer 202, as in section 4.3.
    """
    wishes = _wishes(request)
    if wishes.get("wait", "").isdecimal():
        seconds = min(float(wishes["wait"]), wait_seconds)
        return Preference(seconds, f"wait={seconds:g}")
    if "respond-async" in wishes:
        return Preference(0, "respond-async")
    return Preference(wait_seconds if usual_seconds is None else usual_seconds, None)


def _wishes(request: Request) -> dict[str, str]:
    """The preferences by name; of one that is there twice the first counts (section 2)."""
    wishes: dict[str, str] = {}
    for wish in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = wish.partition(";")[0].partition("=")
        wishes.setdefault(name.strip().lower(), value.strip(' \t"'))
    return wishes


async def wait_for_result(
    request: Request, service: Service, uuid: str, seconds: float
) -> Result | None:
    """The job's result; None if the time is up, the client has gone, or the service is closing.

    It polls after a tenth of the time already waited, 30 ms at first and a second at most. If the
    store is unavailable it polls on: the job is accepted, and only the answer is late.
    """
    if seconds <= 0:
        return None
    try:
        with service.admission.waits.hold(client_of(request)):
            return await _poll(request, service, uuid, time.monotonic(), seconds)
    except (Busy, TooManyRequests):  # the job is accepted all the same
        return None


async def _poll(
    request: Request, service: Service, uuid: str, started: float, seconds: float
) -> Result | None:
    while True:
        result = await in_thread(_result_or_none, service, uuid)
        elapsed = time.monotonic() - started
        if (
            result
            or elapsed >= seconds
            or service.closing.is_set()
            or await request.is_disconnected()
        ):
            return result
        pause = min(
            max(FIRST_PAUSE_SECONDS, elapsed / 10), LONGEST_PAUSE_SECONDS, seconds - elapsed
        )
        with anyio.move_on_after(pause):
            await service.closing.wait()


def _result_or_none(service: Service, uuid: str) -> Result | None:
    try:
        return service.repository.result(uuid)
    except StoreUnavailable:
        return None
