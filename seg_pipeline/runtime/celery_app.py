"""The Celery application: the launcher sends runs with it, and the worker takes them from it.

Without BROKER_URL the broker is a folder, so a laptop needs no server. Each deployment needs its
own queue: two with one broker and queue name would take each other's runs.
"""

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from celery import Celery, bootsteps
from celery.worker import state as worker_state
from kombu import Connection, Queue
from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from seg_pipeline.settings import Settings
from seg_pipeline.store.private_folder import make_private

EXECUTE_RUN_TASK = "seg_pipeline.execute_run"
FOLDER_POLL_SECONDS = 0.05
ACK_CHECK_SECONDS = 2.0
PRIORITY_STEP = 3
"""From the priority of one lane's messages to the next's. Redis has lists for 0, 3, 6 and 9, and
takes from that of 0 first."""

LONGEST_WAIT_SECONDS = 0.2
"""The longest wait for a message. A worker checks whether to stop only between two waits.

It waits once more when it stops. Celery asks for two seconds.
"""


class _AtomicFolderChannel(filesystem.Channel):
    """Kombu's folder channel with priorities, and with atomic writes.

    Upstream's messages can be read half written.
    """

    def _put(self, queue: str, payload: Any, **kwargs: object) -> None:  # type: ignore[override]  # as upstream
        number = f"{_priority(payload)}{self._next_number():019d}"
        name = f"{number}_{uuid.uuid4()}.{queue}.msg"
        hidden = Path(self.data_folder_out) / f".{name}.part"
        hidden.write_bytes(str_to_bytes(dumps(payload)))
        os.replace(hidden, Path(self.data_folder_out) / name)

    @staticmethod
    def _next_number() -> int:
        """A number that sorts messages by age, also across a reboot.

        Upstream's monotonic clock starts again then.
        """
        return time.time_ns()


def _priority(payload: Mapping[str, Any]) -> int:
    """The message's digit from 0 to 9, as in Redis: the names of messages with 0 come first."""
    return min(9, max(0, payload["properties"].get("priority") or 0))


class FolderTransport(filesystem.Transport):
    """Celery over a folder: `atomicfolder://` in a broker URL."""

    Channel = _AtomicFolderChannel

    def __init__(self, client: Connection, **kwargs: object) -> None:
        super().__init__(client, **kwargs)
        # Upstream shares one state among all connections of a process. Bindings of a second folder
        # would count as made, and its messages would vanish.
        self.state = virtual.BrokerState()

    def drain_events(
        self, connection: Connection, timeout: float | None = None, **kwargs: Any
    ) -> None:
        """Waits a short time for a message, then raises TimeoutError, and the worker asks again."""
        super().drain_events(
            connection, None if timeout is None else min(timeout, LONGEST_WAIT_SECONDS), **kwargs
        )


class ReconnectAfterFailedAck(bootsteps.StartStopStep):  # type: ignore[misc]
    """Reconnects an idle worker that may take no message.

    A message whose acknowledgement failed with the connection counts as in hand for ever. Since one
    message at a time may be, the worker would never ask for another, nor notice that the connection
    is gone.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._look: Any = None

    def start(self, parent: Any) -> None:
        """Checks every few seconds, if the worker waits on an event loop."""
        if parent.hub:
            self._look = parent.timer.call_repeatedly(ACK_CHECK_SECONDS, _check_acks, (parent,))

    def stop(self, parent: Any) -> None:
        """Ends the checks."""
        if self._look:
            self._look.cancel()
            self._look = None


def _check_acks(consumer: Any) -> None:
    """Raises ConnectionResetError, at which the worker reconnects."""
    has_work = worker_state.reserved_requests or worker_state.active_requests
    if not has_work and not consumer.task_consumer.channel.qos.can_consume():
        raise ConnectionResetError("a run's message could not be acknowledged")


TRANSPORT_ALIASES["atomicfolder"] = f"{__name__}:FolderTransport"


def broker_folder(settings: Settings) -> Path:
    """The folder where the embedded broker keeps its messages."""
    return settings.data_dir.absolute() / "broker"


def _folder_options(settings: Settings) -> dict[str, object]:
    make_private(settings.data_dir)
    root = broker_folder(settings)
    for name in ("messages", "taken", "control"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(root / "messages"),
        "data_folder_out": str(root / "messages"),
        # Messages are moved within one file system and removed by the prune schedule.
        "store_processed": True,
        "processed_folder": str(root / "taken"),
        "control_folder": str(root / "control"),
        "polling_interval": FOLDER_POLL_SECONDS,
    }


def _broker_config(settings: Settings) -> dict[str, object]:
    if settings.broker_url:
        # A run of a dead worker is delivered again after this time, when recovery has closed it.
        # The time must exceed the longest run, or a healthy one would be delivered twice.
        return {
            "broker_url": settings.broker_url,
            "broker_transport_options": {"visibility_timeout": 6 * 3600},
        }
    return {
        # The folder is named twice: connections are pooled by URL, without regard to the options.
        "broker_url": f"atomicfolder://localhost/{quote(str(broker_folder(settings)))}",
        "broker_transport_options": _folder_options(settings),
    }


def make_celery(settings: Settings) -> Celery:
    """The application with its broker and its one queue; no task is registered yet."""
    app = Celery("seg_pipeline")
    app.steps["consumer"].add(ReconnectAfterFailedAck)
    app.conf.update(
        _broker_config(settings),
        task_queues=[Queue(settings.celery_queue, routing_key=f"{settings.celery_queue}.#")],
        task_default_queue=settings.celery_queue,
        # With "direct", tasks vanish on brokers other than RabbitMQ.
        task_default_exchange_type="topic",
        task_ignore_result=True,  # Dagster's storage has the results
        task_acks_late=True,  # nothing is prefetched while a run executes
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        # Cancelling goes through the run's status, which every broker can do.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_proc_alive_timeout=60.0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
    )
    return app
