"""`seg-pipeline batch`: many pictures under one id, on a terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

from seg_pipeline.adapters.remote_service import LONG_ANSWER
from seg_pipeline.cli.jobs import AskedService, Say, aligned, printable
from seg_pipeline.cli.pictures import NoPicture, pictures_of
from seg_pipeline.cli.segment import write_whole

POLL_SECONDS = 1.0
SHOWN_PROBLEMS = 20

_KINDS = {".json": "application/json", ".jsonl": "application/x-ndjson"} | {
    ".ndjson": "application/x-ndjson", ".zip": "application/zip"
}  # fmt: skip


def create(service: AskedService, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Sends a list, a folder, a ZIP or an s3:// prefix. Raises NoPicture or ServiceRefused."""
    if source.lower().startswith("s3://"):
        return _sent(service, json={"prefix": source, **_given(options)})
    with _content(source) as (media_type, file):
        headers = {"content-type": media_type}
        return _sent(service, params=_query(options), content=file, headers=headers)


def batch_of(service: AskedService, uuid: str) -> dict[str, Any]:
    """A batch's document. Raises ServiceRefused."""
    return service.get(f"/batches/{uuid}", "counts")


def wait(service: AskedService, uuid: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The batch once it has ended; `tell` gets a line whenever it has come on."""
    line = ""
    while True:
        batch = batch_of(service, uuid)
        if (now := progress(batch)) != line:
            tell(line := now)
        if batch["status"] != "processing":
            return batch
        time.sleep(POLL_SECONDS)


def progress(batch: Mapping[str, Any]) -> str:
    """How far it is, in a line."""
    counts = batch["counts"]
    ended = counts["completed"] + counts["failed"] + counts["cancelled"]
    rest = f", {batch['eta_seconds']:.0f} s left" if batch.get("eta_seconds") else ""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{ended} of {batch['total']}{failed}{rest}"


def print_batch(batch: Mapping[str, Any], as_json: bool, say: Say) -> None:
    """Prints a batch and what was rejected of it."""
    if as_json:
        say(json.dumps(batch))
        return
    counts = ", ".join(f"{number} {name}" for name, number in batch["counts"].items() if number)
    facts = {
        **{name: batch[name] for name in ("uuid", "status", "model", "total")},
        "counts": counts,
        "accepted": batch["accepted_at"],
        "completed": batch.get("completed_at"),
        "expires": batch.get("expires_at"),
        "rejected": batch["rejected"],
    }
    for line in aligned([(name, str(value)) for name, value in facts.items() if value]):
        say(line)
    for problem in batch["problems"][:SHOWN_PROBLEMS]:
        say(printable(f"  {problem['where']}: {problem['message']}"))


def print_failed(service: AskedService, uuid: str, limit: int, say: Say) -> None:
    """Prints what failed of a batch, each with its reason. Raises ServiceRefused."""
    page = service.get(f"/batches/{uuid}/jobs", "jobs", status="failed", limit=limit)
    rows = [
        (job["name"], job["uuid"], (job.get("error") or {}).get("message", ""))
        for job in page["jobs"]
    ]
    for line in aligned(rows) if rows else ():
        say(line)


def save_coco(service: AskedService, uuid: str, path: Path) -> None:
    """Writes the batch's one file of results. Raises ServiceRefused or OSError."""
    path_of = f"/batches/{uuid}/export"
    write_whole(path, service.remote.pieces(path_of, params={"format": "coco"}))


def cancel(service: AskedService, uuid: str) -> bool:
    """Cancels a batch, or deletes one that has ended; whether it is deleted."""
    return service.remote.ask("DELETE", f"/batches/{uuid}").status_code == 204


def _sent(service: AskedService, **request: Any) -> dict[str, Any]:
    answer = service.remote.ask("POST", "/batches", timeout=LONG_ANSWER, **request)
    batch: dict[str, Any] = answer.json()
    return batch


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _query(options: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in _given(options).items()
    }


@contextmanager
def _content(source: str) -> Iterator[tuple[str, IO[bytes]]]:
    """What is sent, and its media type. Raises NoPicture."""
    path = Path(source)
    if source == "-":
        with TemporaryFile() as file:  # of a known size, and there for another attempt
            copyfileobj(sys.stdin.buffer, file)
            yield "text/plain", file
    elif path.is_dir():
        with TemporaryFile() as file:
            _zip(path, file)
            yield _KINDS[".zip"], file
    elif path.is_file():
        with path.open("rb") as file:
            yield _KINDS.get(path.suffix.lower(), "text/plain"), file
    else:
        raise NoPicture(f"{source} is no list, no folder, no ZIP and no s3:// prefix.")


def _zip(folder: Path, file: IO[bytes]) -> None:
    """The folder's pictures as a ZIP, with their paths below the folder as names."""
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for picture in pictures_of([str(folder)], folder):
            assert picture.path
            archive.write(picture.path, picture.name)
