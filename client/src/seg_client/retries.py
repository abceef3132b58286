"""When a request is sent again, and after how long a pause."""

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_BUSY_CODES = frozenset(
    {
        *("body_too_slow", "busy", "queue_unavailable", "rate_limited"),
        *("store_unavailable", "too_many_requests"),
    }
)
"""Codes of a refusal that passes. A job that failed has other ones, and stays failed."""

_GATEWAY_STATUSES = (429, 502, 503, 504)
"""What a proxy answers in the service's place, without a code."""

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 8.0


@dataclass
class Deadline:
    """A moment after which nothing is tried any more."""

    seconds: float
    _began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """The seconds until then; negative when it has passed."""
        return self._began + self.seconds - time.monotonic()


def passes(code: str | None, status: int) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    return code in _BUSY_CODES if code else status in _GATEWAY_STATUSES


def pause_seconds(attempt: int, answer: httpx.Response | None) -> float:
    """How long to wait before the next attempt: what `Retry-After` says, else a growing pause.

    `attempt` counts from 0.
    """
    asked = retry_after_seconds(answer.headers.get("retry-after", "") if answer else "")
    if asked is not None:
        return asked
    bound = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10))
    return random.uniform(bound / 2, bound)


def retry_after_seconds(value: str) -> float | None:
    """The header's seconds, or the time until its date (RFC 9110, section 10.2.3)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
