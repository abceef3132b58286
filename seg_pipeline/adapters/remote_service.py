"""A running service, as a client segments pictures with it."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import IOBase
from typing import Any
from uuid import uuid4

import httpx

from seg_pipeline.domain import Parameters
from seg_pipeline.exports import FORMATS
from seg_pipeline.jobs.backoff import doubling_pause

TRIES = 5
FIRST_PAUSE_SECONDS = 0.25
POLL_SECONDS = (0.1, 2.0)
"""The first pause between two looks at a job, and the longest."""
LONGEST_WAIT_SECONDS = 30.0
_TIMEOUT = httpx.Timeout(60, connect=5)
LONG_ANSWER = httpx.Timeout(900, connect=5)
"""Of a request that is answered when much has been unpacked."""

_ENDS = ("completed", "failed", "deleted")
_TRY_AGAIN = (429, 502, 503, 504)


class ServiceRefused(Exception):
    """The service did not segment the picture; the message says why, `code` is its word for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class SegmentedThere:
    """A picture that the service segmented, and its name."""

    name: str
    answer: Mapping[str, Any]
    service: "RemoteService"

    def export(self, name: str) -> Iterator[bytes]:
        """The picture in a format of exports."""
        path = f"/jobs/{self.answer['uuid']}/export"
        named = "file_name" in FORMATS[name].options
        asked = {"format": name, **({"file_name": self.name} if named else {})}
        yield self.service.ask("GET", path, params=asked).content


class RemoteService:
    """A service at an address. `wanted` are options of its jobs. Threads may share it."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        wanted: Mapping[str, Any] | None = None,
        tries: int = TRIES,
    ) -> None:
        self._tries = tries
        self._url = url.rstrip("/")
        headers = {"x-api-key": api_key} if api_key else {}
        self._http = httpx.Client(headers=headers, timeout=_TIMEOUT)
        self._wanted = {name: value for name, value in (wanted or {}).items() if value}

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    @contextmanager
    def segment(
        self, name: str, picture: bytes | None, url: str | None
    ) -> Iterator[SegmentedThere]:
        """The picture's segments, of its bytes or its address. Raises ServiceRefused.

        It is sent under a uuid of its own, so sending it once more does not double the job.
        """
        options = {"uuid": uuid4().hex, **self._wanted}
        if picture is None:
            sent = self.ask("POST", "/jobs", json={**options, "image_url": url})
        else:
            files = {"image": (name, picture)}
            sent = self.ask("POST", "/jobs", data=_form(options), files=files)
        yield SegmentedThere(name, self._finished(sent.json()), self)

    def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """The answer to a request that is tried again where that may help.

        A file as content is sent from its beginning each time. Raises ServiceRefused.
        """
        for turn in range(self._tries):
            if isinstance(content := sent.get("content"), IOBase):
                content.seek(0)
            try:
                answer = self._http.request(method, f"{self._url}{path}", **sent)
            except httpx.HTTPError as error:
                failure = ServiceRefused("no_answer", _unanswered(self._url, error))
                pause = doubling_pause(turn + 1, FIRST_PAUSE_SECONDS, LONGEST_WAIT_SECONDS)
            else:
                if answer.is_success:
                    return answer
                failure = _refusal(answer)
                if answer.status_code not in _TRY_AGAIN:
                    raise failure
                pause = _asked_pause(answer)
            if turn < self._tries - 1:
                time.sleep(pause)
        raise failure

    def pieces(self, path: str, **sent: Any) -> Iterator[bytes]:
        """The bytes of an answer as they come. Raises ServiceRefused."""
        try:
            with self._http.stream("GET", f"{self._url}{path}", **sent) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                yield from answer.iter_bytes()
        except httpx.HTTPError as error:
            raise ServiceRefused("no_answer", _unanswered(self._url, error)) from error

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """The data of server-sent events to their end; listens again where the connection ends.

        Raises ServiceRefused.
        """
        last_id = ""
        event: dict[str, Any] = {}
        while event.get("status", "") not in _ENDS:
            self.ask("GET", path.removesuffix("/events"))
            try:
                with self._http.stream(
                    "GET", f"{self._url}{path}", headers={"last-event-id": last_id}
                ) as answer:
                    if answer.status_code != httpx.codes.OK:
                        answer.read()
                        raise _refusal(answer)
                    for line in answer.iter_lines():
                        last_id = line[4:] if line.startswith("id: ") else last_id
                        if line.startswith("data: "):
                            yield (event := json.loads(line[6:]))
            except httpx.HTTPError:
                time.sleep(1)

    def _finished(self, job: dict[str, Any]) -> dict[str, Any]:
        pause, longest = POLL_SECONDS
        while job["status"] in ("queued", "processing"):
            time.sleep(pause)
            pause = min(longest, pause * 1.3)
            job = self.ask("GET", f"/jobs/{job['uuid']}").json()
        if reason := job["error"]:
            raise ServiceRefused(reason["code"], reason["message"])
        return job


def _form(options: Mapping[str, str | int | Parameters]) -> dict[str, str]:
    return {
        name: json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in options.items()
    }


def _unanswered(url: str, error: httpx.HTTPError) -> str:
    return f"the service at {url} did not answer: {error or type(error).__name__}."


def _refusal(answer: httpx.Response) -> ServiceRefused:
    """The service's own sentence, if it has one."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        return ServiceRefused(str(body.get("code", "error")), body["error"])
    told = f"{answer.url.host} answered {answer.status_code}, which is no answer of this service."
    return ServiceRefused("no_answer", told)


def _asked_pause(answer: httpx.Response) -> float:
    asked = answer.headers.get("retry-after", "1")
    return min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdecimal() else 1.0
