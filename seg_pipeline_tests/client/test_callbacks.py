"""The check accepts what the service signs."""

import pytest

from seg_client import is_genuine
from seg_pipeline.adapters.app_server import sign

BODY = b'{"uuid": "job-1"}'
HEADERS = {"X-Signature-Timestamp": "1000", "X-Signature": sign("secret", "1000", BODY)}


def test_what_the_service_signed_is_genuine() -> None:
    assert is_genuine("secret", HEADERS, BODY, now=1299)


@pytest.mark.parametrize(
    ("secret", "headers", "body", "now"),
    [
        ("other", HEADERS, BODY, 1000),
        ("secret", HEADERS, BODY + b" ", 1000),
        ("secret", HEADERS, BODY, 1301),
        ("secret", HEADERS, BODY, 699),
        ("secret", HEADERS, BODY, None),
        ("secret", {}, BODY, 1000),
        ("secret", {**HEADERS, "X-Signature": "é"}, BODY, 1000),
        (
            "secret",
            {"x-signature-timestamp": "soon", "x-signature": sign("secret", "soon", BODY)},
            BODY,
            1000,
        ),
    ],
)
def test_what_was_changed_is_old_or_unsigned_is_not(
    secret: str, headers: dict[str, str], body: bytes, now: float | None
) -> None:
    assert not is_genuine(secret, headers, body, now)
