"""From a message in the queue to the PATCH at the app server, for one job and for a thousand.

SQS is a moto server in a process of its own, whose share of the CPU is told; pictures and app
server are threads of this one. Files go to a folder, so that no stand-in for S3 is in the figures.
"""

import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from itertools import cycle
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil

from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.plots import plot_queue
from benchmarks.progress import say
from benchmarks.running_stack import running_stack
from benchmarks.tables import Findings, Row, row_of
from seg_pipeline.local.servers import free_port
from seg_pipeline_tests.serving import http_server

ROUNDS = {1: 20, 10: 5, 100: 3, 1_000: 2}
QUICK_ROUNDS = {1: 5, 10: 2, 100: 1}
DIFFERENT = 50
GIVE_UP_SECONDS = 1_200
REGION = "us-east-1"
ANY_KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}


@dataclass(frozen=True)
class Round:
    """So many messages at once: seconds from each one's sending to its PATCH, seconds from the
    first sending to the last PATCH, and the share of these that the stand-in for SQS had a core
    busy."""

    latencies: list[float]
    seconds: float
    moto_share: float

    @property
    def jobs_per_second(self) -> float:
        """The throughput."""
        return len(self.latencies) / self.seconds


@dataclass
class AppServer:
    """When it was told of which job."""

    url: str = ""
    told: dict[str, float] = field(default_factory=dict)


def measure(options: Options) -> Findings:
    """Latency and throughput at each number of jobs."""
    folder = options.folder / "pictures"
    names = [path.name for path in write_scenes(folder, DIFFERENT)]
    rounds: dict[int, list[Round]] = {}
    with sqs_stand_in() as (endpoint, moto), _pictures(folder) as pictures, _app_server() as server:
        queue = sqs_client(endpoint)
        url = queue.create_queue(QueueName="jobs")["QueueUrl"]
        settings = {"sqs_queue_url": url, "sqs_endpoint_url": endpoint,
                    "app_server_url": server.url,
                    "allow_private_urls": True, **ANY_KEYS}  # fmt: skip
        with running_stack(options.folder / "stack", options.model, **settings):
            send = partial(send_messages, queue, url, [f"{pictures}/{name}" for name in names])
            _round(send, server, moto, 8)
            for jobs, times in (QUICK_ROUNDS if options.quick else ROUNDS).items():
                rounds[jobs] = [_round(send, server, moto, jobs) for _ in range(times)]
    return Findings(_rows(rounds), lambda path: plot_queue(_points(rounds), path))


def _rows(rounds: dict[int, list[Round]]) -> list[Row]:
    rows = []
    for jobs, each in rounds.items():
        latencies = [seconds for one in each for seconds in one.latencies]
        p95 = statistics.quantiles(latencies, n=20)[-1]
        median, note = (
            f"{statistics.median(latencies):.2f} s",
            f"95th percentile {p95:.2f} s, of {len(latencies)}",
        )
        rows.append(Row(f"{jobs} at once: message to PATCH", median, note))
        if jobs > 1:
            rows.append(
                row_of(f"{jobs} at once: jobs a second", [one.jobs_per_second for one in each])
            )
    most = max(rounds)
    shares = [100 * one.moto_share for one in rounds[most]]
    return [
        *rows,
        row_of(f"{most} at once: a core's time taken by the stand-in for SQS", shares, "%"),
    ]


def _points(rounds: dict[int, list[Round]]) -> list[tuple[int, float, float]]:
    """Number of jobs, median latency, jobs a second."""
    return [
        (jobs, statistics.median(seconds for one in each for seconds in one.latencies),
         statistics.median(one.jobs_per_second for one in each))
        for jobs, each in rounds.items()
    ]  # fmt: skip


def _round(send: Any, server: AppServer, moto: psutil.Process, jobs: int) -> Round:
    name, cpu_before, begin = secrets.token_hex(4), _cpu_seconds(moto), time.perf_counter()
    sent = send([f"{name}-{index}" for index in range(jobs)])
    while missing := [uuid for uuid in sent if uuid not in server.told]:
        if time.perf_counter() - begin > GIVE_UP_SECONDS:
            raise SystemExit(f"{len(missing)} of {jobs} jobs were not told of in time")
        time.sleep(0.02 if jobs < 100 else 0.2)
    seconds = max(server.told[uuid] for uuid in sent) - begin
    latencies = [server.told[uuid] - moment for uuid, moment in sent.items()]
    say(
        f"queue: {jobs} jobs in {seconds:.1f} s, {statistics.median(latencies):.2f} s from message"
        " to PATCH"
    )
    return Round(latencies, seconds, (_cpu_seconds(moto) - cpu_before) / seconds)


def send_messages(
    queue: Any, url: str, pictures: Sequence[str], uuids: Sequence[str]
) -> dict[str, float]:
    """Sends a message for each, ten a call; when each was sent."""
    sent = {}
    bodies = [
        json.dumps({"uuid": uuid, "image_url": picture})
        for uuid, picture in zip(uuids, cycle(pictures))
    ]
    for start in range(0, len(uuids), 10):
        entries = [
            {"Id": str(index), "MessageBody": body}
            for index, body in enumerate(bodies[start : start + 10])
        ]
        sent.update(dict.fromkeys(uuids[start : start + 10], time.perf_counter()))
        queue.send_message_batch(QueueUrl=url, Entries=entries)
    return sent


def sqs_client(endpoint: str) -> Any:
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    return boto3.client("sqs", endpoint_url=endpoint, region_name=REGION, **keys)


def _cpu_seconds(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


@contextmanager
def sqs_stand_in() -> Iterator[tuple[str, psutil.Process]]:
    """A stand-in for SQS: its address and its process."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _await(endpoint, process)
        yield endpoint, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            httpx.get(endpoint, timeout=1)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the stand-in for SQS did not start")


@contextmanager
def _pictures(folder: Path) -> Iterator[str]:
    """Serves the files of a folder; the address."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _app_server() -> Iterator[AppServer]:
    """Notes the time of each PATCH."""
    server = AppServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PATCH(self) -> None:
            moment = time.perf_counter()
            self.rfile.read(int(self.headers["content-length"]))
            server.told.setdefault(self.path.rpartition("/")[2], moment)
            self.send_response(204)
            self.end_headers()

    with http_server(Handler) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server
