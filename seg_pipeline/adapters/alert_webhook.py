"""Alerts for the people on duty: a POST of `{"text": "…"}`, as Slack takes it.

It goes to ALERT_WEBHOOK_URL. Redirects are not followed, since the address is a secret. No proxy
and no `.netrc` is used. A call takes bounded time whatever happens.
"""

import asyncio
import logging

import httpx

from seg_pipeline.adapters.deadlines import run_promptly
from seg_pipeline.settings import Settings
from seg_pipeline.telemetry import metrics

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
LONGEST_TEXT = 3000
"""Slack cuts off at 4,000 characters."""


def send_alert(settings: Settings, text: str) -> bool:
    """Posts the text if there is an address. Returns False if it did not arrive."""
    if settings.alert_webhook_url is None:
        return True
    problem = run_promptly(
        _post(settings.alert_webhook_url.get_secret_value(), text[:LONGEST_TEXT])
    )
    metrics.ALERTS_SENT.labels("failed" if problem else "sent").inc()
    if problem:
        logger.warning(
            "the alert was not taken by ALERT_WEBHOOK_URL (%s); it is sent again", problem
        )
    return problem is None


async def _post(url: str, text: str) -> str | None:
    """What went wrong, without the address; None if nothing did."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpx.AsyncClient(
                timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False
            ) as client,
            client.stream("POST", url, json={"text": text}) as response,  # its body is not read
        ):
            return None if response.is_success else f"it answered {response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return type(error).__name__
