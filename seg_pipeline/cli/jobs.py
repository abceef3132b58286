"""What a running service knows, on a terminal: `jobs`, `show`, `retry`, `parked` and `open`."""

import json
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from seg_pipeline.adapters.remote_service import RemoteService, ServiceRefused
from seg_pipeline.cli.segmenting import address_of
from seg_pipeline.domain import check_uuid
from seg_pipeline.local import stack
from seg_pipeline.settings import Settings, has_display

Say = Callable[[str], None]


@dataclass(frozen=True)
class AskedService:
    """A service, its address, and the Dagster UI's address if that is known."""

    remote: RemoteService
    url: str
    dagster_url: str | None

    def get(self, path: str, holds: str, **query: Any) -> dict[str, Any]:
        """The JSON of one of its paths, which must hold that field. Raises ServiceRefused."""
        given = {name: value for name, value in query.items() if value is not None}
        answer = self.remote.ask("GET", path, params=given)
        with suppress(ValueError):
            if isinstance(body := answer.json(), dict) and holds in body:
                return body
        raise ServiceRefused("no_answer", f"{self.url} is no such service; look at --server.")

    def job(self, uuid: str) -> dict[str, Any]:
        """A job's document. Raises InvalidUuid or ServiceRefused."""
        return self.get(f"/jobs/{check_uuid(uuid)}", "uuid")


@contextmanager
def open_asked(
    server: str | None, api_key: str | None, settings: Settings
) -> Iterator[AskedService]:
    """The server named, else the service on API_PORT. Nothing is asked yet. Raises WrongUsage."""
    url, key = address_of(server, api_key, settings)
    dagster = None if server else settings.dagster_url or stack.dagster_url(settings)
    shown = url if server else settings.base_url or url
    with closing(RemoteService(url, key, tries=1)) as remote:
        yield AskedService(remote, shown.rstrip("/"), dagster)


def print_jobs(
    service: AskedService, query: Mapping[str, Any], as_json: bool, say: Say, complain: Say
) -> None:
    """Prints a page of jobs. Raises ServiceRefused."""
    page = service.get("/jobs", "jobs", **query)
    _print_page(page, ("uuid", "status", "since"), page["jobs"], as_json, say, complain)


def print_parked(service: AskedService, limit: int, as_json: bool, say: Say, complain: Say) -> None:
    """Prints a page of what is parked. Raises ServiceRefused."""
    page = service.get("/parked", "parked", limit=limit)
    columns = ("name", "kind", "parked_at", "reason")
    _print_page(page, columns, page["parked"], as_json, say, complain)


def print_job(service: AskedService, uuid: str, as_json: bool, say: Say) -> None:
    """Prints a job. Raises InvalidUuid or ServiceRefused."""
    job = service.job(uuid)
    for line in [json.dumps(job)] if as_json else aligned(facts(job).items()):
        say(line)


def retry_all(service: AskedService, uuids: Iterable[str], say: Say, complain: Say) -> int:
    """Has failed jobs run again; says how many were refused. Raises InvalidUuid."""
    refused = 0
    for uuid in [check_uuid(uuid) for uuid in uuids]:
        try:
            service.remote.ask("POST", f"/jobs/{uuid}/retry")
            say(f"{uuid}  queued")
        except ServiceRefused as error:
            complain(f"{uuid}  {error}")
            refused += 1
    return refused


def follow_job(service: AskedService, uuid: str, as_json: bool, say: Say) -> None:
    """Prints each change of a job to its end. Raises InvalidUuid or ServiceRefused."""
    for event in service.remote.events(f"/jobs/{check_uuid(uuid)}/events"):
        say(json.dumps(event) if as_json else told(event))


def told(event: Mapping[str, Any]) -> str:
    """An event in words."""
    words = [datetime.now().strftime("%H:%M:%S"), f"{event['status']:10}", event.get("stage", "")]
    if event.get("total"):
        words.append(f"{event['done']} of {event['total']} points")
    if "segments" in event:
        words.append(f"{event['segments']} segments")
    if error := event.get("error"):
        words.append(f"{error['code']}: {error['message']}")
    return printable("  ".join(word for word in words if word)).rstrip()


def print_cancelled(service: AskedService, uuid: str, say: Say) -> None:
    """Cancels a job, and says what became of it. Raises InvalidUuid or ServiceRefused."""
    answer = service.remote.ask("POST", f"/jobs/{check_uuid(uuid)}/cancel")
    ended = answer.status_code != 202
    say(f"{uuid} is cancelled." if ended else f"{uuid} is with a worker, and stops within seconds.")


def pages_of(service: AskedService, uuid: str) -> dict[str, str]:
    """Where a browser shows the job, the overlay first. Raises InvalidUuid or ServiceRefused."""
    overlay = printable(service.job(uuid).get("overlay_url") or "")
    pages = {"overlay": overlay} if overlay.startswith(("http://", "https://")) else {}
    pages["page"] = f"{service.url}/#{uuid}"
    if service.dagster_url:
        way = f"/assets/result?view=partitions&partition={quote(uuid)}"
        pages["Dagster"] = service.dagster_url.rstrip("/") + way
    return pages


def open_in_browser(address: str) -> None:
    """Opens the address where there is a display and a browser."""
    if has_display():
        with suppress(webbrowser.Error):
            webbrowser.open(address)


def facts(job: Mapping[str, Any]) -> dict[str, str]:
    """What a person wants to know of a job's document, by name. What is not there is left out."""
    times = {name: job.get(f"{name}_at") for name in ("accepted", "started", "completed")}
    error = job.get("error") or {}
    possible = {
        **{name: job.get(name) for name in ("uuid", "status", "model")},
        **times,
        "expires": job.get("expires_at"),
        "segments": counted(job["segments"]) if job["status"] == "completed" else None,
        "error": f"{error.get('code')}: {error.get('message')}" if error else None,
        "overlay": job.get("overlay_url"),
    }
    return {name: str(value) for name, value in possible.items() if value}


def counted(segments: Sequence[Mapping[str, Any]]) -> str:
    """How many segments there are, and of each label how many."""
    labels = Counter(str(each["label"]) for each in segments if each.get("label"))
    of_labels = ", ".join(f"{number} {label}" for label, number in labels.most_common())
    return f"{len(segments)} ({of_labels})" if of_labels else str(len(segments))


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The rows as lines with columns below one another."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _print_page(
    page: Mapping[str, Any], columns: Sequence[str], items: Sequence[Mapping[str, Any]],
    as_json: bool, say: Say, complain: Say,
) -> None:  # fmt: skip
    if as_json:
        say(json.dumps(page))
        return
    rows = [[str(each.get(name) or "") for name in columns] for each in items]
    for line in aligned([columns, *rows]) if rows else ():
        say(line)
    if not rows:
        complain("There is none.")
    if page.get("next"):
        complain("There are more; --limit lists more at once.")
