"""Runs that failed, and which of them are our fault: what `failure_alerts` posts."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import dagster as dg

from seg_pipeline.errors import Fault, fault_of
from seg_pipeline.store import serialization

RUNS_PER_TICK = 100
REPEATED_AFTER = timedelta(hours=1)
"""Failures of one kind are posted this often; the next post counts those in between."""

OVERLAP = timedelta(seconds=2)
"""Runs that ended so recently are read again, since the clocks of processes differ."""

OUTSIDE_ITS_STEPS = "run_failed"
"""Stands for an error's code when the run's worker was lost, or the run never began."""

LONGEST_SENTENCE = 400


@dataclass(frozen=True)
class RunFailure:
    """A run that failed: the error's code and its message.

    `is_final` says that its job was given up.
    """

    run_id: str
    job: str
    code: str
    sentence: str
    is_final: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether to alert somebody: no client can fix it, and no further attempt will."""
        return self.is_final and fault_of(self.code) is Fault.OURS


def failure_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> RunFailure:
    """Why the run failed, from its failed step, else from its last event."""
    failed = dg.DagsterEventType.STEP_FAILURE
    records = instance.get_records_for_run(
        run.run_id, of_type=failed, limit=1, ascending=False
    ).records
    event = records[0].event_log_entry.dagster_event if records else None
    if event is None:
        return RunFailure(
            run.run_id,
            run.job_name,
            OUTSIDE_ITS_STEPS,
            "it ended outside its steps; see its last event.",
        )
    data = event.step_failure_data
    metadata = data.user_failure_data.metadata if data.user_failure_data else {}
    details = {name: value.value for name, value in metadata.items()}
    sentence = (
        data.user_failure_data.description if data.user_failure_data else _first_line(data.error)
    )
    code = str(details.get("code", "internal_error"))
    return RunFailure(
        run.run_id,
        run.job_name,
        code,
        str(sentence)[:LONGEST_SENTENCE],
        bool(details.get("final", True)),
    )


@dataclass
class FailureMemory:
    """The sensor's cursor: up to where runs were read, and when each kind was posted.

    `counted` holds how many failures of each kind came since.
    """

    updated_after: str
    seen: list[str] = field(default_factory=list)
    posted: dict[str, str] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, cursor: str | None, now: datetime) -> Self:
        """What `cursor` wrote. Without one, runs are read from `now` on."""
        try:
            return serialization.read(cls, (cursor or "").encode())
        except serialization.UnreadableRecord:
            return cls(now.isoformat())

    def cursor(self) -> str:
        """The text that `read` reads."""
        return serialization.write(self).decode()

    def take_new_runs(self, instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
        """The runs that failed since the last tick, earliest first; at most `RUNS_PER_TICK`."""
        since = datetime.fromisoformat(self.updated_after)
        filters = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since - OVERLAP
        )
        limit = RUNS_PER_TICK + len(self.seen)
        records = instance.get_run_records(
            filters, limit=limit, order_by="update_timestamp", ascending=True
        )
        new_runs = [
            record.dagster_run for record in records if record.dagster_run.run_id not in self.seen
        ]
        latest = max([since, *(_utc(record.update_timestamp) for record in records)])
        again = [record for record in records if _utc(record.update_timestamp) > latest - OVERLAP]
        self.updated_after, self.seen = (
            latest.isoformat(),
            [record.dagster_run.run_id for record in again],
        )
        return new_runs

    def count(self, failure: RunFailure, now: datetime) -> None:
        """Counts a failure of ours, to be posted now or later."""
        if failure.is_ours:
            self.counted[failure.code] = self.counted.get(failure.code, 0) + 1
            self.latest[failure.code] = f"run {failure.run_id} of {failure.job}: {failure.sentence}"

    def due_lines(self, now: datetime) -> list[str]:
        """A line for each kind that was not posted lately. These now count as posted."""
        lines = []
        for code in [code for code in self.counted if self._is_due(code, now)]:
            count = self.counted.pop(code)
            more = f" ({count} since the last message)" if count > 1 else ""
            lines.append(f"FAILED {code}{more}: {self.latest.pop(code)}")
            self.posted[code] = now.isoformat()
        return lines

    def _is_due(self, code: str, now: datetime) -> bool:
        last = self.posted.get(code)
        return last is None or now - datetime.fromisoformat(last) >= REPEATED_AFTER


def _first_line(error: Any) -> str:
    """The first line of the original exception, which Dagster wraps in its own."""
    while error and error.cause:
        error = error.cause
    text = str(error.message if error else "the step failed").strip()
    return text.splitlines()[0] if text else "the step failed"


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
