"""`make chaos`: whole trials on both profiles; with --write their table goes into
docs/reliability.md."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import replace_section
from seg_pipeline_tests.chaos.faults import Schedule
from seg_pipeline_tests.chaos.trial import Outcome, Trial, conduct
from seg_pipeline_tests.running_stack import PROFILES

REPORT = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    """Conducts the trials that were asked for; 1 if anything is wrong after one of them."""
    arguments = _arguments()
    outcomes = []
    schedule = Schedule(arguments.seed, arguments.kills, arguments.seconds, arguments.away)
    for profile in arguments.profile or PROFILES:
        folder = Path(tempfile.mkdtemp(prefix="seg-chaos-"))
        outcome = conduct(Trial(profile, arguments.jobs, schedule), folder)
        outcomes.append(outcome)
        print(table([outcome]), *outcome.wrong, sep="\n", flush=True)
        if outcome.wrong:
            print(f"its data and logs are kept in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    if arguments.write:
        replace_section(REPORT, "chaos", table(outcomes))
    return int(any(outcome.wrong for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument(
        "--profile", action="append", choices=PROFILES, help="one of them; both if left out"
    )
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument(
        "--away", type=float, default=20, help="seconds that whatever is taken away stays away"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/reliability.md"
    )
    return parser.parse_args()


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, a column for each trial."""
    rows: dict[str, Sequence[object]] = {
        "jobs, half by HTTP and half by SQS": [each.trial.jobs for each in outcomes],
        "seed": [each.trial.schedule.seed for each in outcomes],
        "kills": [_kills(each) for each in outcomes],
        "outages": [_outages(each) for each in outcomes],
        "jobs' ends": [_counts(each.statuses) for each in outcomes],
        "app server told once / more than once, always the same": [
            f"{each.told_once} / {each.told_again}" for each in outcomes
        ],
        "seconds from the last fault until nothing was under way": [
            each.settled_after_seconds for each in outcomes
        ],
        "wrong": [len(each.wrong) for each in outcomes],
    }
    head = [
        "| | " + " | ".join(each.trial.profile for each in outcomes) + " |",
        "|---|" + "---|" * len(outcomes),
    ]
    return "\n".join(
        [*head, *(f"| {name} | {' | '.join(map(str, each))} |" for name, each in rows.items())]
    )


def _kills(outcome: Outcome) -> str:
    kills = {
        name.removeprefix("kill "): count
        for name, count in outcome.faults.items()
        if name.startswith("kill ")
    }
    return f"{sum(kills.values())}: {_counts(kills)}"


def _outages(outcome: Outcome) -> str:
    return ", ".join(sorted(name for name in outcome.faults if not name.startswith("kill ")))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
