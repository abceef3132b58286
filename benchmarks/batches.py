"""A batch against as many single jobs, a lone picture beside a batch and beside messages, and the
status of a batch.

All pictures are fetched from a host on this machine.
"""

import secrets
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bursts import SENDERS, send_one
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.queueing import ANY_KEYS, send_messages, sqs_client, sqs_stand_in
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of
from seg_pipeline_tests.serving import serving

QUICK_JOBS = 200
SMALL, LARGE = 20, 2000
ASKED = 60
LONE = 12
GIVE_UP_SECONDS = 1800


@dataclass(frozen=True)
class Side:
    """Seconds until the last result, and CPU seconds of all processes meanwhile."""

    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s and {self.cpu_seconds:.1f} s of CPU"


def measure(options: Options) -> list[Row]:
    """Jobs and batches in turn, then lone pictures without and beside a batch, then the status."""
    pictures = write_scenes(options.folder / "pictures", 20)
    count, rounds = options.scaled(LARGE, QUICK_JOBS), options.scaled(options.rounds, 2)
    with (
        _host([path.read_bytes() for path in pictures]) as host,
        _service(options) as (stack, sqs),
        httpx.Client(base_url=stack.url, timeout=60) as client,
    ):
        _single(client, stack, _addresses(host, 16))  # loads the model
        sides = [_round(client, stack, host, count) for _ in range(rounds)]
        lone = {"quiet": _lone(client, pictures)}
        large = _create(client, _addresses(host, LARGE))
        time.sleep(5)  # the first portions are under way
        lone[f"a batch of {LARGE} under way"] = _lone(client, pictures)
        of_large = _status_milliseconds(client, large)
        client.delete(f"/batches/{large}").raise_for_status()
        small = _create(client, _addresses(host, SMALL))
        of_small = _status_milliseconds(client, small)
        _until(lambda: _status(client, large)["completed_at"], time.perf_counter())
        send_messages(*sqs, _addresses(host, LARGE), _uuids(LARGE))
        time.sleep(5)
        lone[f"{LARGE} messages in the queue"] = _lone(client, pictures)
    return _rows(count, sides, lone, (of_small, of_large))


def _lone(client: httpx.Client, pictures: list[Path]) -> list[float]:
    """Seconds of each upload; they come at moments of a run that have nothing in common."""
    taken = []
    for turn in range(LONE):
        taken.append(send_one(client, pictures[turn])[0])
        time.sleep(0.7)
    return taken


@contextmanager
def _service(options: Options) -> Iterator[tuple[RunningStack, tuple[Any, str]]]:
    """The service, and a queue that it takes messages from: a client and its address."""
    with sqs_stand_in() as (endpoint, _):
        queue = sqs_client(endpoint)
        url = queue.create_queue(QueueName="jobs")["QueueUrl"]
        settings = {"sqs_queue_url": url, "sqs_endpoint_url": endpoint, **ANY_KEYS}
        folder = options.folder / "stack"
        with running_stack(folder, options.model, allow_private_urls=True, **settings) as stack:
            yield stack, (queue, url)


def _rows(
    count: int,
    sides: list[tuple[Side, Side]],
    lone: dict[str, list[float]],
    status: tuple[list[float], list[float]],
) -> list[Row]:
    note = ", ".join(f"{single.seconds:.1f} and {batch.seconds:.1f} s" for single, batch in sides)
    quicker = [single.seconds / batch.seconds for single, batch in sides]
    dearer = [batch.cpu_seconds / single.cpu_seconds for single, batch in sides]
    figure = f"a batch of {count} addresses: pictures a second, over those of as many single jobs"
    slower = statistics.median(status[1]) / statistics.median(status[0])
    return [
        row_of(figure, quicker, "", "0.9", note),
        row_of("its CPU over theirs, of all processes", dearer, "", "1.1"),
        *_rows_of_lone(lone),
        row_of(f"the status of a batch of {SMALL}", status[0], "ms"),
        row_of(f"the status of a batch of {LARGE}", status[1], "ms"),
        Row("the last over the one before", f"{slower:.2f}", "medians", "about 1"),
    ]


def _rows_of_lone(lone: dict[str, list[float]]) -> list[Row]:
    quiet, *beside = (statistics.median(seconds) for seconds in lone.values())
    ratios = ", ".join(f"{seconds / quiet:.2f}" for seconds in beside)
    return [
        *(row_of(f"a lone upload, {what}", seconds, "s") for what, seconds in lone.items()),
        Row(
            "the second and the third over the first", ratios, "medians", "2, and a picture's time"
        ),
    ]


def _round(client: httpx.Client, stack: RunningStack, host: str, count: int) -> tuple[Side, Side]:
    """Single jobs, then a batch."""
    single = _timed(stack, lambda: _single(client, stack, _addresses(host, count)))
    batch = _timed(stack, lambda: _batch(client, _addresses(host, count)))
    say(f"batches: single jobs {single}, a batch {batch}")
    return single, batch


def _timed(stack: RunningStack, work: Callable[[], object]) -> Side:
    begin, cpu_before = time.perf_counter(), stack.cpu_seconds()
    work()
    return Side(time.perf_counter() - begin, stack.cpu_seconds() - cpu_before)


def _single(client: httpx.Client, stack: RunningStack, addresses: Iterable[str]) -> None:
    begin, name = time.perf_counter(), secrets.token_hex(4)
    wanted = {f"{name}-{index}": address for index, address in enumerate(addresses)}

    def send(pair: tuple[str, str]) -> None:
        body = {"uuid": pair[0], "image_url": pair[1]}
        client.post("/jobs", json=body).raise_for_status()

    with ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(send, wanted.items()))
    for uuid in wanted:
        _until(lambda uuid=uuid: stack.has_finished(uuid), begin)


def _batch(client: httpx.Client, addresses: Iterable[str]) -> None:
    begin, uuid = time.perf_counter(), _create(client, addresses)
    _until(lambda: _status(client, uuid)["completed_at"] is not None, begin)


def _create(client: httpx.Client, addresses: Iterable[str]) -> str:
    answer = client.post("/batches", json=[*addresses])
    answer.raise_for_status()
    return str(answer.json()["uuid"])


def _status(client: httpx.Client, uuid: str) -> dict[str, Any]:
    batch: dict[str, Any] = client.get(f"/batches/{uuid}").raise_for_status().json()
    return batch


def _status_milliseconds(client: httpx.Client, uuid: str) -> list[float]:
    taken = []
    for _ in range(ASKED):
        begin = time.perf_counter()
        _status(client, uuid)
        taken.append(1000 * (time.perf_counter() - begin))
        time.sleep(0.05)
    return taken


def _until(happened: Any, begin: float) -> None:
    while not happened():
        if time.perf_counter() - begin > GIVE_UP_SECONDS:
            raise SystemExit("the pictures were not worked off in time")
        time.sleep(0.05)


def _uuids(count: int) -> list[str]:
    name = secrets.token_hex(4)
    return [f"{name}-{index}" for index in range(count)]


def _addresses(host: str, count: int) -> list[str]:
    """Addresses that differ, so that none of them is a duplicate."""
    name = secrets.token_hex(4)
    return [f"{host}/{name}-{index}.jpg" for index in range(count)]


@contextmanager
def _host(pictures: list[bytes]) -> Iterator[str]:
    """A host that has a picture at each address."""
    turns = cycle(pictures)

    def answer(_: dict[str, Any], start_response: Any) -> list[bytes]:
        body = next(turns)
        size = ("Content-Length", str(len(body)))
        start_response("200 OK", [("Content-Type", "image/jpeg"), size])
        return [body]

    with serving(answer) as url:
        yield url
