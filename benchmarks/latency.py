"""From POST to answer, one picture at a time, minus the model's own time as the worker measured it."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.running_stack import RunningStack
from benchmarks.tables import Row

WARM_UPS = 5


def measure(stack: RunningStack, pictures: Sequence[Path]) -> list[Row]:
    """The overhead of the service on a lone request, warm."""
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        for picture in pictures[:WARM_UPS]:
            _post(client, picture)
        pairs = [_post(client, picture) for picture in pictures]
    overhead = [total - model for total, model in pairs]
    p95 = statistics.quantiles(overhead, n=20)[-1]
    return [
        Row("POST to answer minus the model's time", f"{statistics.median(overhead):.2f} s",
            f"95th percentile {p95:.2f} s, of {len(pairs)}", "0.8 s, 95th percentile 1.5 s"),
        Row("the model's own time in these", f"{statistics.median(model for _, model in pairs):.3f} s", "", ""),
    ]  # fmt: skip


def _post(client: httpx.Client, picture: Path) -> tuple[float, float]:
    """Seconds from POST to answer, and those of them that the model took."""
    begin = time.perf_counter()
    answer = client.post("/segment", content=picture.read_bytes())
    total = time.perf_counter() - begin
    if answer.status_code != 200:
        raise SystemExit(f"{picture.name}: {answer.status_code} {answer.text}")
    return total, float(answer.json()["seconds"]["segments"])
