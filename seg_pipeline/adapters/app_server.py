"""The PATCH to the app server and its signature. `docs/callbacks.md` documents the protocol.

Redirects are never followed, because the API key would go along. No proxy and no `.netrc` is used:
the settings alone decide what is sent, and with which credentials.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import SecretStr

from seg_pipeline.adapters.trust import ssl_context
from seg_pipeline.domain import Job
from seg_pipeline.errors import SegPipelineError, UrlRefused
from seg_pipeline.jobs.answers import CALLBACK_PATH
from seg_pipeline.jobs.batch_records import Batch
from seg_pipeline.jobs.deliveries import Reply
from seg_pipeline.settings import Settings

BATCHES = "batches/"
"""What comes before the id of a batch in the path of its PATCH."""

_QUOTED_CHARACTERS = 300
_UNSENDABLE = "APP_SERVER_URL or APP_SERVER_API_KEY has a character that cannot be sent."


@dataclass(frozen=True)
class DeliveryLimits:
    """Bounds of one PATCH.

    `total_seconds` runs from the look-up of the name until the status is known. `answer_seconds`
    and `answer_bytes` bound the reading of the body, which no longer changes the outcome.
    """

    total_seconds: float = 15
    answer_seconds: float = 3
    answer_bytes: int = 64 * 2**10


LIMITS = DeliveryLimits()


@dataclass(frozen=True)
class Patch:
    """A request as it goes out. The signature covers `body`."""

    url: str
    headers: dict[str, str]
    body: bytes


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """`sha256=` and the hex HMAC-SHA256, under the secret, of the timestamp, a dot and the body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance_seconds: float = 300
) -> bool:
    """Whether a PATCH is genuine and fresh: the check that an app server makes.

    `body` is the raw body.
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = by_name.get("x-signature-timestamp", ""), by_name.get("x-signature", "")
    genuine = hmac.compare_digest(sign(secret, timestamp, body).encode(), signature.encode())
    return genuine and timestamp.isdecimal() and abs(now - int(timestamp)) <= tolerance_seconds


class AppServer:
    """Where results go: APP_SERVER_URL, with APP_SERVER_API_KEY and CALLBACK_SECRET."""

    called = "the app server"
    method = "PATCH"

    def __init__(
        self,
        settings: Settings,
        limits: DeliveryLimits = LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._base_url = (settings.app_server_url or "").rstrip("/")
        self._api_key = text_of(settings.app_server_api_key)
        self._secret = text_of(settings.callback_secret)
        self._limits = limits
        self._clock = clock

    def name_of(self, job: Job) -> str:
        """What `url` needs to know of a job."""
        return job.callback_uuid

    def name_of_batch(self, batch: Batch) -> str:
        """What `url` needs to know of a batch."""
        return f"{BATCHES}{batch.id}"

    def url(self, uuid: str) -> str:
        """Where the job's PATCH goes."""
        return f"{self._base_url}{CALLBACK_PATH}{uuid}"

    def patch(self, uuid: str, document: dict[str, Any]) -> Patch:
        """The request for one job. It is signed now if there is a secret."""
        body = json.dumps(document, separators=(",", ":")).encode()
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "seg-pipeline",
        }
        if self._api_key:
            headers["x-api-key"] = self._api_key
        if self._secret:
            timestamp = str(int(self._clock()))
            headers |= {
                "x-signature-timestamp": timestamp,
                "x-signature": sign(self._secret, timestamp, body),
            }
        return Patch(self.url(uuid), headers, body)

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Session"]:
        """Connections that are kept for several PATCHes."""
        # httpx's own time-outs count from read to read, and would contradict `DeliveryLimits`.
        async with httpx.AsyncClient(
            verify=ssl_context(), timeout=None, trust_env=False, follow_redirects=False
        ) as client:
            yield Session(client, self)

    async def send(self, client: httpx.AsyncClient, patch: Patch) -> Reply:
        """Sends the request once. It always returns a Reply, and in bounded time."""
        begin = time.perf_counter()
        try:
            response, text = await self._exchange(client, patch)
        except UrlRefused as error:
            return Reply(_since(begin), problem=str(error), is_refused=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Reply(_since(begin), problem=self._why_unanswered(error))
        problem = None
        if not response.is_success:
            problem = self._without_secrets(_problem(self.called, response, text))
        return Reply(
            _since(begin),
            response.status_code,
            problem,
            _retry_after_seconds(response, self._clock()),
        )

    async def _exchange(
        self, client: httpx.AsyncClient, patch: Patch
    ) -> tuple[httpx.Response, str]:
        """The answer, and the beginning of its body."""
        async with asyncio.timeout(self._limits.total_seconds) as limit:
            async with client.stream(
                self.method, patch.url, content=patch.body, headers=patch.headers
            ) as response:
                # From here on the answer is known, whatever becomes of its body.
                limit.reschedule(None)
                return response, await self._read(response)

    def _why_unanswered(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._limits.total_seconds:g} s."
        if isinstance(error, httpx.LocalProtocolError | UnicodeError):
            return _UNSENDABLE  # their texts quote the header, which may be the key
        return self._without_secrets(_reason(error))

    async def _read(self, response: httpx.Response) -> str:
        """The beginning of the body.

        The status is known by now, so a body that breaks off changes nothing.
        """
        data = b""
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                async for piece in response.aiter_raw(2**14):
                    data += piece
                    if len(data) >= self._limits.answer_bytes:
                        break
        except (httpx.HTTPError, TimeoutError):
            pass
        return data[: 4 * _QUOTED_CHARACTERS].decode("utf-8", "replace")

    def _without_secrets(self, text: str) -> str:
        """Masks our secrets: a server's answer may quote what it was sent."""
        for secret in filter(None, (self._api_key, self._secret)):
            text = text.replace(secret, "********")
        return text


@dataclass(frozen=True)
class Session:
    """An open client and the server that it connects to."""

    client: httpx.AsyncClient
    server: AppServer

    async def tell(self, name: str, document: dict[str, Any]) -> Reply:
        """Sends one request, to the address of that name, and returns the reply."""
        try:
            patch = self.server.patch(name, document)
        except SegPipelineError as error:
            return Reply(0.0, problem=str(error), is_refused=True)
        return await self.server.send(self.client, patch)


def status_of(url: str, timeout_seconds: float) -> int:
    """The HTTP status with which a server answers GET, without a key. Raises OSError."""
    try:
        return httpx.get(
            url,
            verify=ssl_context(),
            timeout=timeout_seconds,
            trust_env=False,
            follow_redirects=False,
        ).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(_reason(error)) from error


def _problem(called: str, response: httpx.Response, text: str) -> str:
    """One line about an answer that is not a success."""
    quote = "".join(letter if letter.isprintable() else " " for letter in text).strip()[
        :_QUOTED_CHARACTERS
    ]
    line = f"{called} answered {response.status_code} {response.reason_phrase}".rstrip()
    if response.is_redirect:
        line += f" to {response.headers.get('location', '')[:200]!r}, which is not followed"
    return f"{line}: {quote}" if quote else f"{line}."


def _reason(error: Exception) -> str:
    detail = str(error) or "the connection broke off"
    return f"{type(error).__name__}: {detail}"[:_QUOTED_CHARACTERS]


def _retry_after_seconds(response: httpx.Response, now: float) -> float:
    """The seconds until the time in Retry-After (RFC 9110, section 10.2.3); 0 without one."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(now, UTC)).total_seconds())


def text_of(secret: SecretStr | None) -> str:
    """The secret without the line end that files and shells leave at its end."""
    return secret.get_secret_value().strip() if secret else ""


def _since(begin: float) -> float:
    return time.perf_counter() - begin
