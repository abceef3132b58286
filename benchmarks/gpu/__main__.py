"""`make bench-gpu`: what the product does on a GPU, in less than eight minutes, without a network.

Each part runs in a process of its own. What fails is reported with its traceback, and the others
still run. The figures go into docs/benchmarks.md, with the card's name. The exit code is 1 if a
part failed or an agreement does not hold, and 2 if there is no GPU. A target that is missed is in
the table alone.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Agreement
from benchmarks.gpu.parts import ALL_SECONDS, PARTS
from benchmarks.gpu.running import PROJECT, Outcome, outcomes
from benchmarks.progress import say
from benchmarks.tables import replace_section, table

REPORT = PROJECT / "docs" / "benchmarks.md"
SECTION = "gpu"
LOOK_SECONDS = 120
LAST_LINES = 40


def main(given: Sequence[str] | None = None) -> int:
    """Measures the parts that were asked for; says by its result how that went."""
    asked = _arguments(given)
    seen = what_torch_sees()
    if asked.device.startswith("cuda") and not seen.get("devices"):
        print(no_gpu(seen), file=sys.stderr)
        return 2
    chosen = {name: PARTS[name] for name in asked.parts or PARTS}
    report = asked.report or (REPORT if asked.device.startswith("cuda") else None)
    done: list[Outcome] = []
    for outcome in outcomes(chosen, asked.device, asked.short, asked.seconds):
        done.append(outcome)
        _tell(outcome)
        if report:
            put(report, section(machine(seen, asked.device), done))
    print(f"\n{section(machine(seen, asked.device), done)}\n", flush=True)
    bad = [outcome.name for outcome in done if not outcome.is_good]
    say(f"not well: {', '.join(bad)}" if bad else "all parts are measured, all agreements hold")
    return int(bool(bad))


def what_torch_sees() -> dict[str, Any]:
    """The report of `gpu_report` from a process of its own, or why there is none."""
    command = [sys.executable, "-m", "seg_pipeline.segmenters.gpu_report"]
    try:
        answer = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=LOOK_SECONDS
        )
        return dict(json.loads(answer.stdout.splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return {"complaint": "torch could not be asked; does `import torch` work here?"}


def no_gpu(seen: dict[str, Any]) -> str:
    """The sentence for a machine without one."""
    why = f" ({seen['complaint']})" if seen.get("complaint") else ""
    return (
        f"bench-gpu: torch {seen.get('torch', '')} sees no GPU here{why}; "
        '`make bench-gpu ARGS="--device cpu --short"` tries the same code on the CPU.'
    )


def machine(seen: dict[str, Any], device: str) -> str:
    """The day, the card and what it was measured with."""
    number = int(device.partition(":")[2] or 0)
    devices = seen.get("devices") or []
    card = devices[number] if device.startswith("cuda") and number < len(devices) else "no GPU used"
    day = datetime.now(UTC).date()
    return (
        f"{day}, {card}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" torch {seen.get('torch')}, CUDA {seen.get('cuda')}."
    )


def section(heading: str, done: Sequence[Outcome]) -> str:
    """The Markdown of what is measured so far."""
    return "\n\n".join([heading, *(_of_part(outcome) for outcome in done)])


def _of_part(outcome: Outcome) -> str:
    rows = [each.row if isinstance(each, Agreement) else each for each in outcome.findings]
    head = f"**{outcome.name}**, {outcome.seconds:.0f} s"
    if outcome.failure:
        last = next(reversed(outcome.output.splitlines()), "no output")
        head += f", not measured to its end: {outcome.failure}. Its last line: `{last[:300]}`"
    return f"{head}\n\n{table(rows)}" if rows else head


def put(report: Path, text: str) -> None:
    """Writes the section into the report, which is made if it is missing; never raises."""
    try:
        if not report.exists():
            report.write_text(f"<!-- {SECTION} -->\n<!-- /{SECTION} -->\n")
        replace_section(report, SECTION, text)
    except (OSError, SystemExit) as error:
        say(f"nothing is written into {report}: {error}")


def _tell(outcome: Outcome) -> None:
    if outcome.failure:
        last = "\n".join(outcome.output.splitlines()[-LAST_LINES:])
        print(f"\n{outcome.name}: {outcome.failure}\n{last}\n", file=sys.stderr, flush=True)
    for each in outcome.disagreements:
        say(f"{outcome.name}: {each.what} FAILS: {each.seen}")
    say(f"{outcome.name}: {len(outcome.findings)} findings in {outcome.seconds:.0f} s")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the code")
    parser.add_argument("--short", action="store_true", help="small models, few repetitions")
    parser.add_argument(
        "--seconds", type=float, default=ALL_SECONDS, help="the limit of all parts together"
    )
    parser.add_argument(
        "--report", type=Path, help="the file with the section; on a GPU docs/benchmarks.md"
    )
    asked = parser.parse_args(given)
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return asked


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the part under way, too
    sys.exit(main())
