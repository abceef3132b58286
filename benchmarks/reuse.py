"""An answer from the store over a look at the same job: an upload with `reuse` and
`GET /jobs/{uuid}`, in turns, at the whole service, at rest and while a worker segments."""

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import httpx

from benchmarks.beside import beside
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of

WARM_UPS = 3
PROFILES = ("embedded", "servers")


def measure(options: Options) -> list[Row]:
    """On each profile."""
    (picture,) = write_scenes(options.folder / "pictures", 1)
    rounds = options.scaled(60, 10)
    return [row for profile in PROFILES for row in _measure(options, profile, picture, rounds)]


def _measure(options: Options, profile: str, picture: Path, rounds: int) -> list[Row]:
    rows = []
    with running_stack(options.folder / profile, options.model, profile) as stack:
        for state in ("at rest", "while a worker segments"):
            with _others(stack, picture) if state != "at rest" else nullcontext():
                rows += _rows(f"{profile}, {state}", stack, picture.read_bytes(), rounds)
    return rows


def _rows(what: str, stack: RunningStack, picture: bytes, rounds: int) -> list[Row]:
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        pairs = [_pair(client, picture) for _ in range(rounds + WARM_UPS)][WARM_UPS:]
    again, looks = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratios = [one / other for one, other in pairs]
    note = f"looks of {min(looks):.1f} ms at best"
    return [
        row_of(f"{what}: an answer from the store over a look", ratios, note=note),
        row_of(f"{what}: an answer from the store", again, "ms", "50 ms"),
    ]


def _pair(client: httpx.Client, picture: bytes) -> tuple[float, float]:
    """The milliseconds of an answer from the store, and of a look at the same job."""
    began = time.perf_counter()
    answer = client.post("/segment", params={"reuse": "true"}, content=picture).raise_for_status()
    middle = time.perf_counter()
    client.get(f"/jobs/{answer.json()['uuid']}").raise_for_status()
    return 1000 * (middle - began), 1000 * (time.perf_counter() - middle)


def _others(stack: RunningStack, picture: Path) -> AbstractContextManager[None]:
    """One client sends pictures of its own, one after the other."""

    def send(is_over: threading.Event) -> None:
        with httpx.Client(base_url=stack.url, timeout=180) as client:
            while not is_over.is_set():
                client.post("/segment", content=picture.read_bytes())

    return beside(send, "others")
