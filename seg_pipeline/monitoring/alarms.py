"""Judges the state of the service: what is wrong now, and what was judged before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Self

from seg_pipeline.monitoring.service_state import ServiceState
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write

REPEATED_AFTER = timedelta(hours=1)
"""A verdict that does not change is reported again this often."""

PRUNE_LATE_AFTER = timedelta(hours=2, minutes=15)
"""The prune runs every hour, and for 40 minutes at most."""


@dataclass(frozen=True)
class AlarmVerdict:
    """Whether a check passes, with a sentence and the figures behind it."""

    name: str
    passed: bool
    sentence: str
    figures: Mapping[str, float]


def nothing_parked(state: ServiceState, _: Settings) -> AlarmVerdict:
    """No message and no callback waits for a person."""
    figures = {"messages": state.parked_messages, "callbacks": state.parked_callbacks}
    sentence = "Nothing is parked."
    if state.parked:
        sentence = (
            f"{state.parked_messages} messages and {state.parked_callbacks} callbacks are parked; "
            "GET /parked lists them with their reasons."
        )
    return AlarmVerdict("nothing_parked", not state.parked, sentence, figures)


def app_server_answers(state: ServiceState, _: Settings) -> AlarmVerdict:
    """The app server accepts callbacks."""
    seconds = state.app_server_down_seconds
    down = state.app_server.down_since is not None
    sentence = "The app server answers, or was not asked yet."
    if down:
        sentence = f"The app server has been down for {seconds:.0f} s: {state.app_server.problem}"
    return AlarmVerdict(
        "app_server_answers", not down, sentence, {"down_seconds": round(seconds, 1)}
    )


def oldest_job_is_young(state: ServiceState, settings: Settings) -> AlarmVerdict:
    """No job waits longer than OLDEST_JOB_SECONDS."""
    age, limit = state.oldest_job_seconds, settings.oldest_job_seconds
    figures = {
        "oldest_seconds": round(age, 1),
        "waiting": state.waiting.count,
        "in_flight": state.in_flight.count,
    }
    is_old = age > limit
    verb = "waits for" if is_old else "is young:"
    sentence = (
        f"The oldest job {verb} {age:.0f} s; the limit is {limit} s, and {state.workers} workers"
        " live."
    )
    return AlarmVerdict("oldest_job_is_young", not is_old, sentence, figures)


def prune_is_on_time(state: ServiceState, _: Settings) -> AlarmVerdict:
    """The hourly prune ended not long ago, and removed all that it should."""
    if state.prune is None:
        return AlarmVerdict("prune_is_on_time", True, "No prune was due yet.", {})
    age = state.at - state.prune.ended_at
    late = age > PRUNE_LATE_AFTER
    figures = {"seconds_ago": round(age.total_seconds(), 1), "failures": state.prune.failures}
    sentence = f"The last prune ended {age.total_seconds() / 60:.0f} minutes ago"
    sentence += (
        f", and could not remove {state.prune.failures} things." if state.prune.failures else "."
    )
    return AlarmVerdict(
        "prune_is_on_time", not late and not state.prune.failures, sentence, figures
    )


def not_drained(state: ServiceState, _: Settings) -> AlarmVerdict:
    """No operator has drained the service."""
    sentence, left = "Waiting jobs get runs.", 0.0
    if state.drain:
        left = (state.drain.until - state.at).total_seconds()
        sentence = (
            f"An operator drained the service: {state.waiting.count} jobs wait, and get runs in"
            f" {left / 60:.0f} minutes. The job `drain` with `minutes: 0` ends it."
        )
    return AlarmVerdict(
        "not_drained", state.drain is None, sentence, {"seconds_left": round(left, 1)}
    )


CHECKS: dict[str, Callable[[ServiceState, Settings], AlarmVerdict]] = {
    check.__name__: check
    for check in (
        *(nothing_parked, app_server_answers, oldest_job_is_young, prune_is_on_time),
        not_drained,
    )
}
"""Every alarm, by name."""


def judge(state: ServiceState, settings: Settings) -> list[AlarmVerdict]:
    """All verdicts, in the order of `CHECKS`."""
    return [check(state, settings) for check in CHECKS.values()]


class Change(NamedTuple):
    """An alarm that begins or ends, as a line for people."""

    begins: bool
    line: str


@dataclass
class AlarmMemory:
    """Earlier verdicts: since when checks fail, and when each was last reported.

    `untold` holds the lines that could not be posted yet.
    """

    failing: dict[str, str] = field(default_factory=dict)
    reported: dict[str, str] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, store: Store) -> Self:
        """What `write` wrote; empty if there is none."""
        return load(store, cls, keys.ALARMS_STATE) or cls()

    def write(self, store: Store) -> None:
        """Keeps it for the next look, in whatever process."""
        store.put(keys.ALARMS_STATE, write(self))

    def is_due(self, verdict: AlarmVerdict, now: datetime) -> bool:
        """Whether to report the verdict: it has changed, or its last report is old."""
        last = self.reported.get(verdict.name)
        has_changed = verdict.passed == (verdict.name in self.failing)
        return last is None or has_changed or now - datetime.fromisoformat(last) > REPEATED_AFTER

    def take(self, verdict: AlarmVerdict, now: datetime) -> Change | None:
        """Marks the verdict as reported. Returns the alarm that begins or ends with it."""
        self.reported[verdict.name] = now.isoformat()
        since = self.failing.get(verdict.name)
        if not verdict.passed and since is None:
            self.failing[verdict.name] = now.isoformat()
            return Change(True, f"ALARM {verdict.name}: {verdict.sentence}")
        if verdict.passed and since is not None:
            del self.failing[verdict.name]
            seconds = (now - datetime.fromisoformat(since)).total_seconds()
            return Change(
                False, f"{verdict.name} is well again after {seconds:.0f} s. {verdict.sentence}"
            )
        return None
