"""From POST to answer, one picture at a time, minus the model's own time as the worker measured
it."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.bursts import send_one
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.running_stack import running_stack
from benchmarks.tables import Row

WARM_UPS = 5


def measure(options: Options) -> list[Row]:
    """The overhead of the service on a lone request, warm."""
    pictures = write_scenes(options.folder / "pictures", options.scaled(100, 20))
    with running_stack(options.folder / "stack", options.model) as stack:
        pairs = _send_each(stack.url, pictures)
    overhead = [total - model for total, model in pairs]
    p95 = statistics.quantiles(overhead, n=20)[-1]
    return [
        Row("POST to answer minus the model's time", f"{statistics.median(overhead):.2f} s",
            f"95th percentile {p95:.2f} s, of {len(pairs)}", "0.8 s, 95th percentile 1.5 s"),
        Row("the model's own time in these",
            f"{statistics.median(model for _, model in pairs):.3f} s"),
    ]  # fmt: skip


def _send_each(url: str, pictures: Sequence[Path]) -> list[tuple[float, float]]:
    with httpx.Client(base_url=url, timeout=180) as client:
        for picture in pictures[:WARM_UPS]:
            send_one(client, picture)
        pairs = [send_one(client, picture) for picture in pictures]
        return [(total, model) for total, model in pairs if not math.isnan(model)]
