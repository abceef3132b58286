"""Sends hostile pictures of every format and flaw through a whole service, and says how each ended.

`make fuzz` runs it; ARGS="--count 3000 --seed 13 --write" are the defaults but the last, which puts
the table into docs/reliability.md. It ends with 1 if a picture was called what it is not, a process
of the service died, or the service's memory grew.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from benchmarks.running_stack import RunningStack, running_stack
from seg_pipeline_tests.hostile_pictures import (
    COMPLETED,
    NO_MASKS,
    HostilePicture,
    hostile_pictures,
)

RELIABILITY = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- fuzz -->\n", "<!-- /fuzz -->\n"
CLIENTS = 4
WARM_UP = 300
MEMORY_SAMPLES = 5
MAX_GROWTH_BYTES = 100 * 2**20


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/reliability.md"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder), "demo-yolo") as stack:
        report = Report(asked.seed)
        report.run(stack, list(hostile_pictures(asked.count, asked.seed)))
    print(report.text())
    if asked.write:
        write_between_marks(RELIABILITY, report.text())
    sys.exit(1 if report.wrong or report.died or report.grown_bytes > MAX_GROWTH_BYTES else 0)


class Report:
    """What became of the pictures, and of the service."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.outcomes: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []
        self.died = 0
        self.memory_bytes: dict[int, int] = {}
        """What the service held after so many pictures."""
        self.seconds = 0.0

    @property
    def grown_bytes(self) -> int:
        """From the first measurement to the last."""
        held = list(self.memory_bytes.values())
        return max(0, held[-1] - held[0]) if held else 0

    def run(self, stack: RunningStack, pictures: Sequence[HostilePicture]) -> None:
        """Sends the pictures from a few clients at once."""
        begun = time.monotonic()
        step = max(1, (len(pictures) - WARM_UP) // (MEMORY_SAMPLES - 1))
        measured = range(WARM_UP, len(pictures) + 1, step)
        with (
            httpx.Client(base_url=stack.url, timeout=300) as client,
            ThreadPoolExecutor(CLIENTS) as threads,
        ):
            before = stack_pids(stack)
            for count, (picture, outcome) in enumerate(
                threads.map(lambda each: (each, send(client, each)), pictures), 1
            ):
                self._count(picture, outcome)
                if count in measured:
                    self.memory_bytes[count] = memory(stack)
        self.died = len(before - stack_pids(stack))
        self.seconds = time.monotonic() - begun

    def _count(self, picture: HostilePicture, outcome: str) -> None:
        self.outcomes.setdefault(picture.flaw, Counter())[outcome] += 1
        if outcome not in picture.outcomes:
            self.wrong.append(f"{picture.format}, {picture.flaw}: {outcome}")
            print(self.wrong[-1], file=sys.stderr, flush=True)

    def text(self) -> str:
        """A table of flaws and outcomes, as Markdown."""
        total = sum(sum(counts.values()) for counts in self.outcomes.values())
        rows = [f"| {flaw} | {_shown(counts)} |" for flaw, counts in sorted(self.outcomes.items())]
        return "\n".join([
            f"{total} pictures (seed {self.seed}) in {self.seconds:.0f} s from {CLIENTS} clients: "
            f"{len(self.wrong)} called what they are not, and {self.died} processes of the service "
            f"died. It held {self._memory()}.",
            "", "| flaw | how the pictures ended |", "|---|---|", *rows, "",
        ])  # fmt: skip

    def _memory(self) -> str:
        held = (f"{size / 2**20:.0f} MB after {n}" for n, size in self.memory_bytes.items())
        return ", ".join(held)


def send(client: httpx.Client, picture: HostilePicture) -> str:
    """How one picture ended: `completed`, or the code of its refusal or failure."""
    answer = client.post(
        "/segment", content=picture.data, headers={"Content-Type": "application/octet-stream"}
    )
    document = answer.json()
    if answer.status_code == 400 and document == {"error": "No masks found"}:
        return COMPLETED
    return document.get("code") or document.get("status") or NO_MASKS


def stack_pids(stack: RunningStack) -> set[int]:
    """The processes that are to live as long as the service; decoders come and go."""
    return {
        process.pid
        for process in living(stack)
        if "decoder_process" not in " ".join(process.cmdline())
    }


def memory(stack: RunningStack) -> int:
    """What all processes hold that is theirs alone."""
    return sum(process.memory_full_info().uss for process in living(stack))


def living(stack: RunningStack) -> Iterator[psutil.Process]:
    """The service's processes that have not ended meanwhile."""
    for process in stack.processes():
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            yield process


def write_between_marks(path: Path, text: str) -> None:
    """Replaces what stands between the marks of a document."""
    document = path.read_text(encoding="utf-8")
    before, after = document.partition(BEGIN)[0], document.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"`{outcome}` {number}" for outcome, number in counts.most_common())


if __name__ == "__main__":
    main()
