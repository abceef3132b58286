"""Sends one picture through the running service, as a client does."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from seg_pipeline.domain import DEMO_MODELS, parts_of, resolved_model

BUNDLED = Path(__file__).parents[1] / "demo" / "sample.jpg"
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.5


class SampleFailed(Exception):
    """The sample was not segmented; the message says why."""


class ApiAway(SampleFailed):
    """The API did not answer, or was ended meanwhile. It may come back."""


@dataclass(frozen=True)
class Answer:
    """A server's answer. `body` is its JSON, or None."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class SegmentedSample:
    """A segmented sample: its job's document and the seconds from request to answer."""

    document: dict[str, Any]
    seconds: float

    @property
    def found(self) -> int:
        """The number of segments."""
        return len(self.document.get("segments", ()))


def sample_picture(model: str) -> Path:
    """A picture that the model knows.

    It is the bundled one for the demo models, else the street scene of ultralytics, if that is
    installed.
    """
    package = find_spec("ultralytics")
    is_demo = all(part in DEMO_MODELS for part in parts_of(resolved_model(model)))
    if not is_demo and package and package.submodule_search_locations:
        street = Path(package.submodule_search_locations[0]) / "assets" / "bus.jpg"
        if street.exists():
            return street
    return BUNDLED


def ask(method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 5.0) -> Answer:  # fmt: skip
    """Makes one request, never through a proxy. Raises OSError or http.client.HTTPException."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=timeout_seconds
    )
    try:
        path = parts._replace(scheme="", netloc="").geturl() or "/"
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), _json_or_none(response.read()))
    finally:
        connection.close()


def send_sample(
    base_url: str, picture: Path, api_key: str | None = None, uuid: str | None = None
) -> SegmentedSample:
    """POSTs the picture to /segment and waits until its job is finished.

    Raises SampleFailed, or its kind ApiAway. Sent again with the same uuid, it is the same job. A
    picture without segments succeeds too: its document has none.
    """
    began = time.monotonic()
    headers = {"x-api-key": api_key} if api_key else {}
    try:
        url = f"{base_url}/segment?uuid={uuid}" if uuid else f"{base_url}/segment"
        answer = ask("POST", url, picture.read_bytes(), headers, PATIENCE_SECONDS)
        while answer.status == 202 or _is_unfinished(answer):
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise SampleFailed(f"the sample was not segmented within {PATIENCE_SECONDS:g} s.")
            time.sleep(POLL_SECONDS)
            job_url = urljoin(base_url, f"/jobs/{answer.body['uuid']}")
            answer = ask("GET", job_url, headers=headers)
    except (OSError, http.client.HTTPException) as error:
        raise ApiAway(
            f"the API at {base_url} did not answer: {error or type(error).__name__}."
        ) from error
    return SegmentedSample(_document(answer), time.monotonic() - began)


def abridged(document: Any, keep: int = 1) -> Any:
    """The same JSON with long lists cut, to be read on a terminal."""
    if isinstance(document, dict):
        return {key: abridged(value, keep) for key, value in document.items()}
    if isinstance(document, list):
        rest = [f"... and {len(document) - keep} more"] if len(document) > keep else []
        return [*(abridged(each, keep) for each in document[:keep]), *rest]
    return document


def _is_unfinished(answer: Answer) -> bool:
    return answer.status == 200 and answer.body.get("status") in ("queued", "processing")


def _document(answer: Answer) -> dict[str, Any]:
    body = answer.body if isinstance(answer.body, dict) else {}
    if answer.status == 200 and body.get("status") == "completed":
        return body
    if body.get("error") == "No masks found":
        return {"status": "completed", "segments": [], **body}
    error = body.get("error") or f"the API answered {answer.status}"
    raise SampleFailed(error["message"] if isinstance(error, dict) else str(error))


def _json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
