"""What Dagster's processes do for a job, in one process and on one database, at a word from
standard input.

`history_servers` starts two of these, one with a long past and one without, and has them do the
same things in turn. Each word is answered by a line: what its work took (`Cost`), without what had
to be made ready for it.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import dagster as dg
import psutil
import sqlalchemy as db
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
)
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import _process_tick_generator
from dagster_graphql.schema import create_schema

from benchmarks.costs import Cost
from benchmarks.past_jobs import ORIGINAL, age_runs, copy_run, keep_alive, prefix_of, register
from benchmarks.pictures import write_scenes
from seg_pipeline.defs.pruning import prune
from seg_pipeline.defs.queue_sensors import event_of
from seg_pipeline.defs.recovery import recover
from seg_pipeline.defs.resources import shared_stage_context
from seg_pipeline.domain import Job
from seg_pipeline.jobs.acceptance import fingerprint
from seg_pipeline.jobs.claims import new_run_key
from seg_pipeline.jobs.deliveries import Delivery, DeliveryState
from seg_pipeline.local.processes import LOCATION_NAME
from seg_pipeline.runtime.dagster_home import make_dagster_home_ready
from seg_pipeline.runtime.dagster_storage import plan_together, postgres_engine, postgres_url
from seg_pipeline.runtime.execution import execute
from seg_pipeline.settings import get_settings

DUE_RUNS = 10
CALLBACKS = 16
CLAIMS = 16
UI_TIMES = 5

RUNS_PAGE = """query RunsFeed {
    runsFeedOrError(limit: 30, view: RUNS) { ... on RunsFeedConnection { cursor hasMore
    results { id runStatus creationTime startTime endTime tags { key value } jobName
        ... on Run { runId hasReExecutePermission assetSelection { path } } } } } }"""
"""As the UI asks for its page of runs."""

PARTITIONS_PAGE = """query PartitionHealth {
    assetNodeOrError(assetKey: {path: ["result"]}) { ... on AssetNode { id
    partitionKeysByDimension { name type partitionKeys }
    assetPartitionStatuses { ... on DefaultPartitionStatuses
        { materializedPartitions materializingPartitions failedPartitions } } } } }"""
"""As the UI asks for the partitions of an asset."""


class OneInstance:
    """An instance's database and store, and its code as daemon and UI reach it."""

    def __init__(
        self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext, batch: int
    ) -> None:
        self._instance, self._workspace, self._batch = instance, workspace, batch
        self._stage_context, self._schema = shared_stage_context(), create_schema()
        (picture,) = write_scenes(
            self._stage_context.settings.data_dir / "pictures", 1, width=64, height=64
        )
        self._picture = picture.read_bytes()
        self._numbers, self._pruned = count(1), 0

    def begin(self) -> Cost:
        """A real run, whose rows and files others are copied from."""
        self._accept([f"{ORIGINAL}{index}" for index in range(self._batch)])
        self._tick_inbox()
        return self.run()

    def tick(self) -> Cost:
        """A tick of the inbox's sensor that finds a batch: claims, partitions, the run's rows, its
        launch."""
        self._accept(self._new_uuids(self._batch))
        return timed(self._tick_inbox)

    def run(self) -> Cost:
        """The run that the last tick launched, without the broker between."""
        (run_id,) = self._instance.get_run_ids(limit=1)
        return timed(lambda: execute(self._instance, run_id))

    def recover(self) -> Cost:
        """Recovery over claims whose runs are not made yet, each of which is looked for."""
        uuids = self._new_uuids(CLAIMS)
        self._accept(uuids)
        for uuid in uuids:
            self._stage_context.repository.claims.claim(
                [uuid], new_run_key(uuid, 1, datetime.now(UTC))
            )
        cost = timed(lambda: recover(self._stage_context, self._instance, datetime.now(UTC)))
        for uuid in uuids:
            self._stage_context.repository.removal.delete(uuid)
        return cost

    def relay(self) -> Cost:
        """Looking for what is due to the app server, and reporting deliveries."""
        now = datetime.now(UTC)
        begun = (Delivery.begin(uuid, "0" * 64, now) for uuid in self._new_uuids(CALLBACKS))
        deliveries = [replace(each, state=DeliveryState.DELIVERED) for each in begun]
        return timed(lambda: self._report(deliveries))

    def runs_page(self) -> Cost:
        """The UI's page of runs."""
        return timed(lambda: self._ask(RUNS_PAGE))

    def partitions_page(self) -> Cost:
        """The UI's page of the partitions of `result`."""
        return timed(lambda: self._ask(PARTITIONS_PAGE))

    def prune(self) -> Cost:
        """A prune that has some runs and their jobs to remove."""
        age_runs(self._engine, DUE_RUNS)
        first = self._pruned + 1
        self._pruned += DUE_RUNS
        self._keep_alive(range(first, first + DUE_RUNS), datetime.now(UTC) - timedelta(hours=1))
        return timed(lambda: prune(self._stage_context, self._instance, datetime.now(UTC)))

    def grow(self, past_jobs: int) -> Cost:
        """Gets a past of so many jobs, of which the last are still kept."""
        copies = past_jobs // self._batch
        (run_id,) = self._instance.get_run_ids(limit=1)
        living = range(
            max(1, copies - self._stage_context.settings.live_partitions // self._batch + 1),
            copies + 1,
        )
        return timed(lambda: self._write_past(run_id, copies, living))

    def _write_past(self, run_id: str, copies: int, living: range) -> None:
        copy_run(self._engine, run_id, copies)
        register(self._engine, [uuid for number in living for uuid in self._uuids_of(number)])
        self._keep_alive(living, datetime.now(UTC) + timedelta(days=1))

    def _keep_alive(self, runs: range, expires_at: datetime) -> None:
        uuids = (uuid for number in runs for uuid in self._uuids_of(number))
        keep_alive(self._stage_context.repository, f"{ORIGINAL}0", uuids, expires_at)

    def _uuids_of(self, number: int) -> list[str]:
        return [f"{prefix_of(number)}{index}" for index in range(self._batch)]

    def _new_uuids(self, how_many: int) -> list[str]:
        number = next(self._numbers)
        return [f"new-{number:05d}-{index}" for index in range(how_many)]

    def _accept(self, uuids: list[str]) -> None:
        described: dict[str, Any] = {
            "source_sha256": fingerprint(self._picture),
            "source_extension": "png",
            "model": "demo-yolo",
        }
        for uuid in uuids:
            self._stage_context.repository.acceptance.accept(Job(uuid, **described), self._picture)

    def _tick_inbox(self) -> None:
        (location,) = self._workspace.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        sensor = repository.get_sensor("inbox_sensor")
        retention = self._instance.get_tick_retention_settings(InstigatorType.SENSOR)
        state = self._instance.get_instigator_state(
            sensor.get_remote_origin_id(), sensor.selector_id
        )
        if state is None:
            state = InstigatorState(
                sensor.get_remote_origin(), InstigatorType.SENSOR,
                InstigatorStatus.DECLARED_IN_CODE,
                SensorInstigatorData(min_interval=sensor.min_interval_seconds,
                                     sensor_type=sensor.sensor_type),
            )  # fmt: skip
            self._instance.add_instigator_state(state)
        tick = _process_tick_generator(
            self._workspace, _LOGGER, sensor, state, None, retention, None
        )
        errors = [error for error in tick if error]
        assert not errors, errors

    def _report(self, deliveries: list[Delivery]) -> None:
        self._stage_context.repository.outbox.uuids()
        for delivery in deliveries:
            self._instance.report_runless_asset_event(event_of(delivery))

    def _ask(self, query: str) -> None:
        for _ in range(UI_TIMES):
            context = self._workspace.create_request_context()
            answer: Any = asyncio.run(self._schema.execute_async(query, context_value=context))
            assert not answer.errors, answer.errors

    @property
    def _engine(self) -> Any:
        return postgres_engine(postgres_url(self._stage_context.settings.database_url or ""))


_LOGGER = logging.getLogger("ticks")


def timed(work: Callable[[], object]) -> Cost:
    """What the work took, in the code server below us too."""
    began, cpu, statements = time.perf_counter(), _cpu_seconds(), _statements.value
    work()
    return Cost(time.perf_counter() - began, _cpu_seconds() - cpu, _statements.value - statements)


def _cpu_seconds() -> float:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


class _Statements:
    """Counts what this process asks of databases."""

    def __init__(self) -> None:
        self.value = 0
        db.event.listen(db.Engine, "before_cursor_execute", self._note)

    def _note(self, *_: object) -> None:
        self.value += 1


_statements = _Statements()


@contextmanager
def one_instance(batch: int) -> Iterator[OneInstance]:
    """The instance that the settings lead to, its tables made."""
    settings = get_settings()
    make_dagster_home_ready(settings)
    plan_together()
    with dg.DagsterInstance.get() as instance:
        target = ModuleTarget(
            LOCATION_NAME, None, working_directory=None, location_name=LOCATION_NAME
        )
        with WorkspaceProcessContext(instance, target) as workspace:
            yield OneInstance(instance, workspace, batch)


def main() -> None:
    """Answers each line, such as `tick` or `grow 1000`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with one_instance(int(sys.argv[1])) as instance:
        for line in sys.stdin:
            word, *numbers = line.split()
            cost: Cost = getattr(instance, word)(*map(int, numbers))
            print(cost.line(), file=answers, flush=True)


if __name__ == "__main__":
    main()
