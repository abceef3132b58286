"""One trial: jobs by HTTP and by SQS while everything is killed and taken away, and what is so when
it is over."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from seg_pipeline.errors import StoreError
from seg_pipeline.jobs.records import Result
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline_tests.chaos.faults import (
    Fault,
    Outage,
    Saboteur,
    Schedule,
    emptied_redis,
    frozen,
    full_disk,
    gate_outage,
    killed_prune,
    plan,
    small_disk,
)
from seg_pipeline_tests.chaos.gates import Mode
from seg_pipeline_tests.chaos.outside import Outside, outside
from seg_pipeline_tests.running_stack import Stack

MARKERS = (keys.FETCHING, keys.INBOX, keys.INFLIGHT, keys.OUTBOX)
SETTLE_SECONDS = 120.0
"""What is promised: within so long of the last fault, everything is as it should be."""

RUNNING = "NOT_STARTED, QUEUED, STARTING, STARTED, CANCELING"


@dataclass(frozen=True)
class Trial:
    """What to do: jobs, half by each way in, spread over the time of the schedule of faults."""

    profile: str
    jobs: int
    schedule: Schedule
    settle_seconds: float = SETTLE_SECONDS


@dataclass
class Outcome:
    """What was done, and what is not as it should be: nothing, when all is well."""

    trial: Trial
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    told_once: int = 0
    told_again: int = 0
    settled_after_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def conduct(trial: Trial, folder: Path) -> Outcome:
    """Runs the trial in a folder of its own. Whatever is wrong in the end is in the outcome, and
    raises nothing."""
    with ExitStack() as exits:
        world = exits.enter_context(outside())
        has_disk = trial.profile == "embedded" and exits.enter_context(
            small_disk(folder / "stack", 1500)
        )
        (folder / "stack").mkdir(exist_ok=True)
        on_servers = trial.profile == "servers"
        models = {"MODEL": "demo-yolo", "QUEUE_MODEL": "demo-yolo", "HEALTH_IDLE_SECONDS": "0"}
        settings = {**models, **world.settings(with_bucket=on_servers)}
        stack = exits.enter_context(Stack(folder / "stack", settings, trial.profile))
        outages = [
            *_outages_outside(world, on_servers),
            *_outages_inside(stack, on_servers, has_disk),
        ]
        return _Run(trial, world, stack, outages).go()


def _outages_outside(world: Outside, on_servers: bool) -> list[Outage]:
    gates = world.gates
    found = [
        gate_outage("app server away", gates["app server"], Mode.REFUSING),
        gate_outage("image host hangs", gates["image host"], Mode.HANGING),
        gate_outage("AWS away", gates["aws"], Mode.REFUSING),
        gate_outage("app server hangs", gates["app server"], Mode.HANGING),
    ]
    slow = [
        gate_outage("S3 slow", gates["aws"], Mode.SLOW),
        gate_outage("S3 hangs", gates["aws"], Mode.HANGING),
    ]
    return found + (slow if on_servers else [])


def _outages_inside(stack: Stack, on_servers: bool, has_disk: bool) -> list[Outage]:
    found = [killed_prune(stack), *([full_disk(stack.folder)] if has_disk else [])]
    servers = [frozen(stack, "redis"), frozen(stack, "postgres"), emptied_redis(stack)]
    return found + (servers if on_servers else [])


class _Run:
    def __init__(
        self, trial: Trial, world: Outside, stack: Stack, outages: Sequence[Outage]
    ) -> None:
        self.trial, self.world, self.stack, self.outages = trial, world, stack, outages
        self.outcome = Outcome(trial)
        self.by_http = [f"http-{number:03d}" for number in range(trial.jobs // 2)]
        self.by_sqs = [f"sqs-{number:03d}" for number in range(trial.jobs - trial.jobs // 2)]

    def go(self) -> Outcome:
        workers = [name for name in self.stack.pids() if name.startswith("worker")]
        targets = [*sorted(self.stack.pids()), *(f"child of {name}" for name in workers)]
        faults = plan(self.trial.schedule, targets, [outage.name for outage in self.outages])
        saboteur = Saboteur(self.stack, self.outages)
        self._in_threads(self._post_all, self._send_all, lambda: saboteur.carry_out(faults))
        self._settle()
        self.outcome.faults = saboteur.done
        self._look(faults)
        return self.outcome

    def _in_threads(self, *works: Callable[[], None]) -> None:
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post_all(self) -> None:
        """As a patient client: it sends the same again until it is told that the job is
        accepted."""
        pause = self.trial.schedule.seconds / max(1, len(self.by_http))
        for uuid in self.by_http:
            while not self._post(uuid):
                if not self.stack.is_up:
                    self.outcome.wrong.append("the service has ended")
                    return
                time.sleep(0.5)
            time.sleep(pause)

    def _post(self, uuid: str) -> bool:
        try:
            answer = httpx.post(
                f"{self.stack.base_url}/segment", params={"uuid": uuid},
                content=BUNDLED.read_bytes(),
                headers={"prefer": "respond-async"}, timeout=15,
            )  # fmt: skip
        except httpx.HTTPError:
            return False
        if answer.status_code not in (200, 202, 429, 500, 502, 503, 504, 507):
            self.outcome.wrong.append(
                f"{uuid}: POST answered {answer.status_code} {answer.text[:200]}"
            )
        return answer.status_code < 300

    def _send_all(self) -> None:
        pause = self.trial.schedule.seconds / max(1, len(self.by_sqs))
        for uuid in self.by_sqs:
            address = f"{self.world.gates['image host'].url}/{uuid}.jpg"
            self.world.send(json.dumps({"uuid": uuid, "image_url": address}))
            time.sleep(pause)

    def _settle(self) -> None:
        began = time.monotonic()
        give_up_at = began + self.trial.settle_seconds
        while (unsettled := self._unsettled()) and time.monotonic() < give_up_at:
            if not self.stack.is_up:
                break
            time.sleep(1)
        self.outcome.settled_after_seconds = round(time.monotonic() - began, 1)
        if unsettled:
            self.outcome.wrong.append(
                f"not settled after {self.trial.settle_seconds:g} s: {unsettled}"
            )

    def _unsettled(self) -> str:
        """What is still under way, in a few words; empty when nothing is."""
        try:
            done = {info.key.rpartition("/")[2] for status in ("completed", "failed")
                    for info in self.store.list(keys.done(status, ""))}  # fmt: skip
            markers = [info.key for prefix in MARKERS for info in self.store.list(prefix)]
            running = self._running()
        except (StoreError, httpx.HTTPError, LookupError, TypeError) as error:
            return str(error)
        untold = set(self.by_sqs) - set(self.world.app_server.uuids())
        unfinished = {*self.by_http, *self.by_sqs} - done
        found = {"jobs": unfinished, "markers": markers, "runs": running, "not told": untold}
        return ", ".join(
            f"{len(each)} {name} {sorted(each)[:3]}" for name, each in found.items() if each
        )

    def _look(self, faults: Sequence[Fault]) -> None:
        outcome, wrong = self.outcome, self.outcome.wrong
        repository = JobRepository(self.store)
        for uuid in (*self.by_http, *self.by_sqs):
            result = repository.result(uuid)
            outcome.statuses[self._status(result)] += 1
            if result is None or result.status != "completed":
                wrong.append(f"{uuid}: {result.error if result else 'no result'}")
        self._look_at_what_was_told()
        wrong += [
            f"half a file: {path}"
            for path in self.stack.data_dir.glob("assets/**/.*")
            if path.is_file()
        ]
        names = {fault.name for fault in faults}
        wrong += [
            f"never done: {name}"
            for name in sorted(names - outcome.faults.keys())
            if "kill" not in name
        ]

    def _look_at_what_was_told(self) -> None:
        told = self.world.app_server.told
        for uuid in self.by_sqs:
            bodies = [each.body for each in told if each.uuid == uuid]
            self.outcome.told_once += len(bodies) == 1
            self.outcome.told_again += len(bodies) > 1
            if len(set(bodies)) > 1:
                self.outcome.wrong.append(
                    f"{uuid}: told {len(bodies)} times, and not always the same"
                )

    @staticmethod
    def _status(result: Result | None) -> str:
        if result is None:
            return "lost"
        return str(result.error.code if result.error else result.status)

    def _running(self) -> list[str]:
        query = f"""{{ runsOrError(filter: {{statuses: [{RUNNING}]}}) {{
            ... on Runs {{ results {{ runId }} }} }} }}"""
        return [run["runId"] for run in self.stack.graphql(query)["runsOrError"]["results"]]

    @property
    def store(self) -> Store:
        """The service's own, past the gate."""
        bucket = (
            self.world.bucket_settings(self.world.aws_url)
            if self.trial.profile == "servers"
            else {}
        )
        values: dict[str, Any] = {name.lower(): value for name, value in bucket.items()}
        return open_store(Settings(_env_file=None, data_dir=self.stack.data_dir, **values))
