"""`make bench`: each figure as a ratio or difference taken in one run, its sides interleaved; medians with spread.

Prints the tables and writes them into docs/benchmarks.md between its markers. Needs a quiet machine: anything else that
runs is in the figures.
"""

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import footprint, latency, throughput
from benchmarks.pictures import write_scenes
from benchmarks.running_stack import running_stack
from benchmarks.tables import Row, replace_section, table

PROJECT = Path(__file__).parent.parent
REPORT = PROJECT / "docs" / "benchmarks.md"


def main() -> None:
    """Measures, prints, writes the report."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="seg-bench-") as folder:
        rows = _measure(Path(folder), arguments)
    text = f"{_machine()}\n\n{table(rows)}"
    print(f"\n{text}")
    if arguments.write:
        replace_section(REPORT, "figures", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--model", default="demo-yolo", help="a YOLO-seg name or a path to weights")
    parser.add_argument("--pictures", type=int, default=200, help="queued at once")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side of a ratio is measured")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()


def _measure(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    pictures = write_scenes(folder / "pictures", arguments.pictures)
    rows = footprint.measure(folder / "footprint")
    with running_stack(folder / "stack", arguments.model) as stack:
        rows += latency.measure(stack, pictures[:100])
        rows += throughput.measure(stack, pictures, arguments.rounds)
        rows += footprint.resident(stack)
    return rows


def _machine() -> str:
    day = datetime.now(UTC).date()
    return f"{day}, {os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}, no GPU used."


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
