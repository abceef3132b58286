"""`make bench`: each figure, where it can be, a ratio taken in one run, its sides in turn; medians
with spread.

Prints a table for each part, and with --write puts it into docs/benchmarks.md between the part's
markers. Needs a quiet machine: anything else that runs is in the figures.
"""

import argparse
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks.options import Options
from benchmarks.progress import say
from benchmarks.tables import Findings, Row, replace_section, table

DOCS = Path(__file__).parent.parent / "docs"
REPORT = DOCS / "benchmarks.md"

Measure = Callable[[Options], list[Row] | Findings]


def _by(module: str) -> Measure:
    """What a module measures, imported when it is asked for: several load a model library."""
    return lambda options: import_module(f"benchmarks.{module}").measure(options)


PARTS: dict[str, Measure] = {
    "footprint": _by("footprint"),
    "latency": _by("latency"),
    "throughput": _by("throughput"),
    "batches": _by("batches"),
    "queue": _by("queueing"),
    "starvation": _by("starvation"),
    "replaced_way": _by("replaced_way"),
    "orchestration": _by("orchestration"),
    "overload": _by("overload"),
    "listeners": _by("listeners"),
    "reuse": _by("reuse"),
    "memory": _by("memory"),
    "encoding": _by("encoding"),
    "automatic_masks": _by("automatic_masks"),
    "prompts": _by("prompts"),
    "yolo": _by("yolo"),
    "large_pictures": (
        lambda options: import_module("benchmarks.large_pictures").measure(options.folder)
    ),
    "history": _by("history"),
    "history_servers": _by("history_servers"),
    "soak": _by("soak"),
    "control_plane": _by("control_plane"),
}
"""The parts in their order; none knows of the others."""


def main() -> int:
    """Measures the parts that were asked for, one after the other; 1 if one of them could not be
    measured."""
    arguments = _arguments()
    failed = []
    with tempfile.TemporaryDirectory(prefix="seg-bench-") as folder:
        for name in arguments.parts or PARTS:
            options = replace(arguments.options, folder=Path(folder) / name)
            if not _measure_part(name, options, arguments.write):
                failed.append(name)
    if failed:
        say(f"not measured: {', '.join(failed)}")
    return int(bool(failed))


def _measure_part(name: str, options: Options, write: bool) -> bool:
    """Measures, prints and writes one part; says whether that went well, since the others should
    not suffer."""
    say(f"{name} ...")
    options.folder.mkdir(parents=True)
    try:
        findings = _findings(PARTS[name](options))
    except (Exception, SystemExit):
        traceback.print_exc()
        return False
    text = f"{_machine()}\n\n{table(findings.rows)}"
    print(f"\n{name}: {text}\n", flush=True)
    if write:
        _write(name, text, findings)
    return True


def _findings(measured: list[Row] | Findings) -> Findings:
    return measured if isinstance(measured, Findings) else Findings(measured)


def _write(name: str, text: str, findings: Findings) -> None:
    if findings.draw:
        picture = f"benchmarks-{name}.svg"
        findings.draw(DOCS / picture)
        text += f"\n\n![{name}]({picture})"
    replace_section(REPORT, name, text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all of them without one"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    parser.add_argument(
        "--quick", action="store_true", help="minutes in all: fewer pictures, fewer rounds"
    )
    for name, meaning in _OPTIONS.items():
        default = getattr(_DEFAULTS, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=meaning
        )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    chosen = {name: getattr(arguments, name) for name in _OPTIONS}
    arguments.options = replace(_DEFAULTS, quick=arguments.quick, **chosen)
    return arguments


_DEFAULTS = Options(Path())
_OPTIONS = {
    "model": (
        "a YOLO-seg name or a path to weights, for footprint, latency, queue, replaced_way and"
        " memory"
    ),
    "pictures": "queued at once in throughput",
    "rounds": "times that each side of a ratio is measured in throughput and replaced_way",
    "past_jobs": "how far history goes",
    "past_batch": "how many jobs share a run in history; 1 makes it last much longer",
    "minutes": "how long soak lasts, once it is warm",
    "profile": "of soak: embedded, or servers",
}


def _machine() -> str:
    day = datetime.now(UTC).date()
    return (
        f"{day}, {os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}, no GPU"
        " used."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
