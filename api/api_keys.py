"""The keys of API_KEYS, their names, and their rates (API_RATES)."""

import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from seg_pipeline.settings import Settings, listed

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):(.+)")
_OTHERS = "*"


@dataclass(frozen=True)
class ApiKey:
    """A client: its name in logs and in API_RATES, and the texts that are accepted as its key."""

    name: str
    texts: tuple[bytes, ...]

    @classmethod
    def parse(cls, entry: str, number: int) -> "ApiKey":
        """Parses `name:key`, or a bare key.

        The whole entry is a key as well: keys may hold colons.
        """
        named = _NAMED.fullmatch(entry)
        if not named:
            return cls(f"key-{number}", (entry.encode(),))
        return cls(named[1], (named[2].encode(), entry.encode()))

    def matches(self, given: bytes) -> bool:
        """Whether the text is this key. The time of comparing reveals nothing."""
        return sum(hmac.compare_digest(given, text) for text in self.texts) > 0


class ApiKeys:
    """All keys, with a token bucket for each that has a rate."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        text = settings.api_keys.get_secret_value() if settings.api_keys else ""
        self.are_set = settings.api_keys is not None
        self._keys = [ApiKey.parse(entry, number) for number, entry in enumerate(listed(text), 1)]
        rates = parse_rates(settings.api_rates or "")
        names = {key.name for key in self._keys}
        self._buckets = {
            name: Bucket(rate, clock)
            for name in names
            if (rate := rates.get(name) or rates.get(_OTHERS))
        }

    def find(self, given: str) -> ApiKey | None:
        """The key that was given. All are compared, so that the time reveals nothing."""
        matching = [key for key in self._keys if key.matches(given.encode())]
        return matching[0] if matching else None

    def wait_seconds(self, key: ApiKey) -> float:
        """Counts a request of this key. Returns 0 if it may be served, else the seconds to wait."""
        bucket = self._buckets.get(key.name)
        return bucket.take() if bucket else 0


class Bucket:
    """A token bucket: so many requests a minute, and as many at once after a quiet minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute)
        self._filled_at = clock()

    def take(self) -> float:
        """Takes a request. Returns 0 if one was left, else the seconds until there is."""
        now = self._clock()
        gained = (now - self._filled_at) * self._per_minute / 60
        self._left, self._filled_at = min(self._left + gained, self._per_minute), now
        if self._left >= 1:
            self._left -= 1
            return 0
        return (1 - self._left) * 60 / self._per_minute


def parse_rates(text: str) -> dict[str, int]:
    """Parses `shop=60,*=600` into requests a minute by name. The settings have checked the form."""
    pairs = (entry.partition("=") for entry in listed(text))
    return {name.strip(): int(rate) for name, _, rate in pairs}
