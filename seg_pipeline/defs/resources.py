"""What ops and sensors work with, built once per process and kept in memory.

Dagster builds resources for every run; models, clients and connections must outlive a run.
"""

from functools import lru_cache

import dagster as dg

from seg_pipeline.adapters.outbox_relay import OutboxRelay
from seg_pipeline.adapters.sqs_consumer import SqsConsumer
from seg_pipeline.adapters.sqs_polling import SqsPoller
from seg_pipeline.adapters.webhook_relays import WebhookRelays
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.segmenters.warm import WarmModels
from seg_pipeline.settings import get_settings
from seg_pipeline.store import open_store


@lru_cache(maxsize=1)
def shared_stage_context() -> StageContext:
    """This process's stage context. No model is loaded before the first run that needs it."""
    settings = get_settings()
    return StageContext(settings, open_store(settings), WarmModels(settings))


@dg.resource(description="Store, job repository and models of this process.")
def stage_context_resource(_: dg.InitResourceContext) -> StageContext:
    """The process's stage context as a resource. A test passes its own instead."""
    return shared_stage_context()


@lru_cache(maxsize=1)
def relay() -> OutboxRelay:
    """This process's relay, which remembers whether the app server answers."""
    return OutboxRelay(shared_stage_context().store, get_settings())


@dg.resource(description="Carries results to the app server.")
def relay_resource(_: dg.InitResourceContext) -> OutboxRelay:
    """The process's relay, as a resource."""
    return relay()


@lru_cache(maxsize=1)
def webhook_relays() -> WebhookRelays:
    """This process's relays of webhooks, which remember which hosts answer."""
    return WebhookRelays(shared_stage_context().store, get_settings())


@dg.resource(description="Tells webhooks.")
def webhook_relays_resource(_: dg.InitResourceContext) -> WebhookRelays:
    """The process's relays of webhooks, as a resource."""
    return webhook_relays()


@lru_cache(maxsize=1)
def poller() -> SqsPoller:
    """This process's poller, which remembers whether the queue answers."""
    return SqsPoller(SqsConsumer(get_settings(), shared_stage_context().repository))


@dg.resource(description="Brings in what the queue has.")
def poller_resource(_: dg.InitResourceContext) -> SqsPoller:
    """The process's poller, as a resource."""
    return poller()


class PassedJobs(dg.IOManager):
    """Hands the list of jobs from op to op, in memory.

    Nothing else passes between ops, and nothing is kept. In a run that is restarted from its
    failure, on whatever machine, an op gets None and takes the jobs of its run.
    """

    def __init__(self) -> None:
        self._passed: dict[tuple[str, str], list[str]] = {}

    def handle_output(self, context: dg.OutputContext, obj: list[str]) -> None:
        """Keeps the jobs that a step passes on, for this run only."""
        if context.run_id not in {run_id for run_id, _ in self._passed}:
            self._passed.clear()
        self._passed[context.run_id, context.step_key] = obj

    def load_input(self, context: dg.InputContext) -> list[str] | None:
        """The jobs that the step above passed on in this run."""
        above = context.upstream_output
        return self._passed.get((above.run_id, above.step_key)) if above else None


@lru_cache(maxsize=1)
def passed_jobs() -> PassedJobs:
    """The process's only one: a worker executes one run at a time."""
    return PassedJobs()


@dg.io_manager(description="Hands the jobs from op to op, in memory.")
def passed_jobs_io_manager(_: dg.InitResourceContext) -> PassedJobs:
    """The process's `PassedJobs`."""
    return passed_jobs()
