"""For the app server that gets the service's callbacks."""

import hashlib
import hmac
import time
from collections.abc import Mapping


def is_genuine(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None = None,
    tolerance_seconds: float = 300,
) -> bool:
    """Whether a callback was signed with CALLBACK_SECRET within the last five minutes.

    `body` is the raw body: check it before you parse it.
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = by_name.get("x-signature-timestamp", ""), by_name.get("x-signature", "")
    message = timestamp.encode() + b"." + body
    expected = "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    is_signed = hmac.compare_digest(expected.encode(), signature.encode())
    return is_signed and timestamp.isdecimal() and _age(timestamp, now) <= tolerance_seconds


def _age(timestamp: str, now: float | None) -> float:
    return abs((time.time() if now is None else now) - int(timestamp))
