"""Uploads and good addresses beside strangers' servers that hang, refuse, trickle and fail, each
side in one run.

The bad jobs are sent anew as they end, so that as many as were asked for are under way while the
others are measured. `BROKER_URL` and `DATABASE_URL` in the environment measure the production
profile.
"""

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from itertools import cycle

import httpx

from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of
from seg_pipeline_tests.serving import hang, http_server, trickle, wire_server

BAD_JOBS, QUICK_BAD_JOBS = 300, 80
UPLOADS, QUICK_UPLOADS = 40, 12
GOOD_JOBS, QUICK_GOOD_JOBS = 100, 30
GIVE_UP_SECONDS = 600


@dataclass(frozen=True)
class Side:
    """Seconds of each upload, and good addresses finished a second."""

    uploads: list[float]
    jobs_per_second: float


def measure(options: Options) -> list[Row]:
    """The quiet service, then the same with the bad jobs under way."""
    pictures = [path.read_bytes() for path in write_scenes(options.folder / "pictures", 20)]
    uploads, jobs = (
        options.scaled(UPLOADS, QUICK_UPLOADS),
        options.scaled(GOOD_JOBS, QUICK_GOOD_JOBS),
    )
    bad_jobs = options.scaled(BAD_JOBS, QUICK_BAD_JOBS)
    with ExitStack() as hosts:
        good, bad = _hosts(hosts, pictures)
        stack = hosts.enter_context(
            running_stack(options.folder / "stack", options.model, allow_private_urls=True)
        )
        _one_side(stack, pictures, good, 3, 8)  # loads the model
        quiet = [_one_side(stack, pictures, good, uploads, jobs)]
        with _under_way(stack, bad, bad_jobs):
            beside = [_one_side(stack, pictures, good, uploads, jobs) for _ in range(2)]
        quiet.append(_one_side(stack, pictures, good, uploads, jobs))
    return _rows(quiet, beside, bad_jobs)


def _rows(quiet: list[Side], beside: list[Side], bad_jobs: int) -> list[Row]:
    before, during = (
        [seconds for side in sides for seconds in side.uploads] for sides in (quiet, beside)
    )
    rate, rate_beside = ([side.jobs_per_second for side in sides] for sides in (quiet, beside))
    slower = statistics.median(during) / statistics.median(before)
    kept = statistics.mean(rate_beside) / statistics.mean(rate)
    return [
        row_of("an upload, quiet", before, "s"),
        row_of(f"an upload, {bad_jobs} jobs on bad hosts under way", during, "s"),
        Row("the second over the first", f"{slower:.2f}", "medians", "at most 1.3"),
        row_of("good addresses a second, quiet", rate),
        row_of("good addresses a second, the same jobs under way", rate_beside),
        Row("the second over the first", f"{kept:.2f}", "means", "at least 0.9"),
    ]


def _one_side(
    stack: RunningStack, pictures: list[bytes], good: str, uploads: int, jobs: int
) -> Side:
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        seconds = [
            _upload(client, picture)
            for _, picture in zip(range(uploads), cycle(pictures), strict=False)
        ]
        begin = time.perf_counter()
        sent = [_send(client, f"{good}/{index}") for index in range(jobs)]
        while not all(map(stack.has_finished, sent)):
            if time.perf_counter() - begin > GIVE_UP_SECONDS:
                raise SystemExit("good addresses were not done in time")
            time.sleep(0.05)
        side = Side(seconds, jobs / (time.perf_counter() - begin))
    say(
        f"starvation: {statistics.median(seconds):.2f} s an upload, {side.jobs_per_second:.1f} good"
        " addresses a second"
    )
    return side


def _upload(client: httpx.Client, picture: bytes) -> float:
    begin = time.perf_counter()
    client.post("/segment", content=picture).raise_for_status()
    return time.perf_counter() - begin


def _send(client: httpx.Client, url: str) -> str:
    return str(client.post("/jobs", json={"image_url": url}).raise_for_status().json()["uuid"])


@contextmanager
def _under_way(stack: RunningStack, bad: list[str], jobs: int) -> Iterator[None]:
    """Keeps so many jobs on bad hosts to be fetched."""
    stopping = threading.Event()
    fetching = stack.settings.data_dir / "state" / "fetching"

    def refill() -> None:
        addresses = cycle(bad)
        with httpx.Client(base_url=stack.url, timeout=120) as client:
            while not stopping.is_set():
                for _ in range(max(0, jobs - sum(1 for _ in fetching.iterdir()))):
                    _send(client, next(addresses))
                stopping.wait(0.5)

    thread = threading.Thread(target=refill, daemon=True)
    thread.start()
    while sum(1 for _ in fetching.iterdir()) < 0.9 * jobs and thread.is_alive():
        time.sleep(0.1)
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _hosts(exits: ExitStack, pictures: list[bytes]) -> tuple[str, list[str]]:
    """A good host's address, and an address on each kind of bad one."""
    hanging, trickling = (
        exits.enter_context(wire_server(hang)),
        exits.enter_context(wire_server(trickle)),
    )
    good, failing = (exits.enter_context(_picture_host(some)) for some in (pictures, []))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        refusing = f"http://127.0.0.1:{probe.getsockname()[1]}"
    return good, [f"{hanging}/a", f"{refusing}/a", f"{trickling}/a", f"{failing}/a"]


@contextmanager
def _picture_host(pictures: list[bytes]) -> Iterator[str]:
    """Gives a picture for a number, and fails for all else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            body = pictures[int(name) % len(pictures)] if name.isdecimal() else b""
            self.send_response(200 if body else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"
