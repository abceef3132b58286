"""What `make run` starts: the API, a worker, a fetcher and Dagster's three processes."""

import base64
import fcntl
import http.client
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from seg_pipeline.errors import StoreError
from seg_pipeline.local.gpus import usable_gpus, workers_for
from seg_pipeline.local.processes import (
    CodeServer,
    environment_of,
    processes,
    usable_cores,
    write_dagster_home,
    write_workspace,
)
from seg_pipeline.local.sample import (
    ApiAway,
    SampleFailed,
    SegmentedSample,
    abridged,
    ask,
    sample_picture,
    send_sample,
)
from seg_pipeline.local.servers import free_port, listens, ports_of, with_servers
from seg_pipeline.local.supervisor import Program, Say, Supervisor, SupervisorError
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline.store.format import refuse_newer
from seg_pipeline.store.private_folder import make_private

SERVERS_WORKERS = 2
DEMO = {"model": "demo-yolo", "queue_model": "demo-sam2"}
WEIGHTS_SECONDS = 3600.0
SAMPLE_SECONDS = 120.0
"""For so long the sample is sent again if the API is ended meanwhile."""

WAITS_FOR_WORK: dict[str, Any] = {
    "stop_seconds": 1.5,
    "may_be_killed": True,
    "hushed": "dangling STARTED tick",
}
"""Daemon and code server stop only after the current tick, in which they wait up to 20 s for work.

If that is all they do, we do not wait for it. The next start finds the unfinished tick, reports and
drops it.
"""


def run(
    settings: Settings,
    with_sample: bool,
    exit_after_sample: bool,
    say: Say,
    own_servers: bool = False,
) -> None:
    """Starts everything and keeps it running, or stops it once the sample has been segmented.

    `own_servers` adds a Redis and a Postgres of this machine, and a second worker unless the user
    set a number. Raises StopRequested when a signal ended it, and SupervisorError with a message
    for the user.
    """
    began = time.monotonic()
    settings, is_demo = with_demo_models(with_workers_for_gpus(settings))
    with only_one(settings.data_dir):
        check_store(settings)
        check_ports(settings)
        say(f"Starting with {settings.model} ...")
        if is_demo:
            say(
                "This demo model knows only generated shapes; `MODEL=yolov8x-seg make run` takes a"
                " real one."
            )
        settings, servers = _servers(settings) if own_servers else (settings, [])
        with Supervisor(
            [*servers, *after_servers(programs(settings), servers)], logs(settings), say
        ) as supervisor:
            try:
                supervisor.wait_until_ready()
                say(f"Everything is up after {time.monotonic() - began:.1f} s.")
                _serve(settings, supervisor, with_sample, exit_after_sample, say)
            finally:
                say("Stopping ...")


def with_workers_for_gpus(settings: Settings) -> Settings:
    """The settings with as many workers as keep the GPUs busy, unless the user set a number.

    Each worker takes one GPU, which it may share (see `gpus`).
    """
    gpus = usable_gpus(settings.device) if "workers" not in settings.model_fields_set else []
    if not gpus:
        return settings
    return settings.model_copy(update={"workers": workers_for(gpus, usable_cores())})


def _servers(settings: Settings) -> tuple[Settings, list[Program]]:
    workers = settings.workers if "workers" in settings.model_fields_set else SERVERS_WORKERS
    servers = with_servers(settings.model_copy(update={"workers": workers}))
    return servers.settings, servers.programs


def after_servers(programs: Sequence[Program], servers: Sequence[Program]) -> list[Program]:
    """The programs, each of which starts once the servers are ready."""
    names = tuple(server.name for server in servers)
    return [replace(program, after=(*program.after, *names)) for program in programs]


def _serve(
    settings: Settings, supervisor: Supervisor, with_sample: bool, exit_after_sample: bool, say: Say
) -> None:
    if exit_after_sample:
        check_sample(settings, supervisor, say)
        return
    if with_sample:
        try_sample(settings, supervisor, say)
    show_addresses(settings, say)
    supervisor.run_until(lambda: False)


def with_demo_models(settings: Settings) -> tuple[Settings, bool]:
    """The settings with the bundled models if the user set none, and whether that is so."""
    if "model" in settings.model_fields_set:
        return settings, False
    unset = {name: model for name, model in DEMO.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=unset), True


def logs(settings: Settings) -> Path:
    """The folder of the processes' logs."""
    return settings.data_dir / "logs"


def check_store(settings: Settings) -> None:
    """Raises SupervisorError if a newer version wrote the store."""
    try:
        refuse_newer(open_store(settings))
    except StoreError as error:
        raise SupervisorError(str(error)) from error


def check_ports(settings: Settings) -> None:
    """Raises SupervisorError if a port that users know is taken."""
    if settings.api_port == settings.dagster_port:
        raise SupervisorError(
            f"API_PORT and DAGSTER_PORT are both {settings.api_port}; change one of them."
        )
    check_port("API_PORT", settings.api_host, settings.api_port)
    check_port("DAGSTER_PORT", settings.dagster_host, settings.dagster_port)


def check_port(name: str, host: str, port: int) -> None:
    """Raises SupervisorError if the setting's port cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SupervisorError(
            f"port {port} on {host}: {reason}; stop what uses it, or set {name}."
        ) from error


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Locks the data folder against a second start. Raises SupervisorError if one is running."""
    with ExitStack() as held:
        try:
            make_private(data_dir)
            file = held.enter_context((data_dir / "seg-pipeline.pid").open("a+", encoding="ascii"))
            _take(file, data_dir)
        except OSError as error:
            reason = f"the data folder {data_dir} cannot be used: {error.strerror}; set DATA_DIR."
            raise SupervisorError(reason) from error
        yield
        file.truncate(0)


def _take(file: IO[str], data_dir: Path) -> None:
    file.seek(0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = file.read().strip() or "of unknown number"
        raise SupervisorError(
            f"already running on {data_dir} (process {process}); stop it or set DATA_DIR."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def programs(settings: Settings) -> list[Program]:
    """The programs, in the order in which the user sees them.

    One process makes Dagster's tables before others use them. The code server starts before its
    clients, since the daemon would retry only after a minute. The API is stopped first, so that no
    new jobs arrive.
    """
    code = CodeServer("127.0.0.1", free_port(ports_of(settings)))
    home = write_dagster_home(settings)
    commands = {
        name: each.command
        for name, each in processes(settings, code, write_workspace(home, code)).items()
    }
    api, dagster = base_url(settings), dagster_url(settings)
    shared = {**environment_of(settings), "DAGSTER_HOME": str(home)}
    one = {"OMP_NUM_THREADS": "1", **shared}
    many = {"OMP_NUM_THREADS": str(max(1, usable_cores() // settings.workers)), **shared}
    pull = [sys.executable, "-m", "seg_pipeline.cli", "weights", "pull"]
    tables = [sys.executable, "-m", "seg_pipeline.runtime.preparation", "tables", "broker"]
    return [
        Program("weights", pull, one, once=True, shown="^downloading ",
                ready_within_seconds=WEIGHTS_SECONDS),
        Program("tables", tables, one, once=True),
        Program("api", commands["api"], one, is_ready=lambda: _is_ok(f"{api}/livez"),
                stop_seconds=8),
        *(Program(name, commands["worker"], many, after=("weights", "tables"), stop_turn=1,
                  stop_seconds=10,
                  is_ready=lambda: _is_ok(f"{api}/readyz"), hushed="Dependencies for step")
          for name in worker_names(settings.workers)),
        Program("fetcher", commands["fetcher"], one, stop_turn=1),
        Program("code-server", commands["code-server"], one, after=("tables",), stop_turn=1,
                is_ready=lambda: listens(code.host, code.port), **WAITS_FOR_WORK),
        Program("webserver", commands["webserver"], one, after=("code-server",), stop_turn=1,
                is_ready=lambda: _is_ok(f"{dagster}/server_info")),
        Program("daemon", commands["daemon"], one, after=("code-server",), stop_turn=1,
                is_ready=lambda: _daemons_beat(settings), **WAITS_FOR_WORK),
    ]  # fmt: skip


def worker_names(workers: int) -> list[str]:
    """The names of a machine's workers: the first has no number."""
    return ["worker", *(f"worker-{number}" for number in range(2, workers + 1))]


def base_url(settings: Settings) -> str:
    """The API's address, seen from this machine."""
    return f"http://{_reachable(settings.api_host)}:{settings.api_port}"


def dagster_url(settings: Settings) -> str:
    """The Dagster UI's address, seen from this machine."""
    return f"http://{_reachable(settings.dagster_host)}:{settings.dagster_port}"


def job_page(settings: Settings, uuid: str) -> str:
    """Where Dagster shows a job: its result, and from there all that led to it."""
    return f"{dagster_url(settings)}/assets/result?view=partitions&partition={quote(uuid)}"


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _is_ok(url: str) -> bool:
    try:
        return ask("GET", url, timeout_seconds=1).status == 200
    except (OSError, http.client.HTTPException):
        return False


def _daemons_beat(settings: Settings) -> bool:
    """Whether the UI reports all parts of the daemon as healthy."""
    query = {"query": "{ instance { daemonHealth { allDaemonStatuses { healthy required } } } }"}
    headers = {"content-type": "application/json", **ui_credentials(settings)}
    try:
        url = f"{dagster_url(settings)}/graphql"
        answer = ask("POST", url, json.dumps(query).encode(), headers, timeout_seconds=2)
        statuses = answer.body["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (OSError, http.client.HTTPException, LookupError, TypeError):
        return False
    return all(status["healthy"] for status in statuses if status["required"])


def ui_credentials(settings: Settings) -> dict[str, str]:
    """The header that the UI accepts from us, if it asks for credentials."""
    if settings.dagster_password:
        password = settings.dagster_password.get_secret_value().strip()
        return {"authorization": f"Basic {base64.b64encode(f':{password}'.encode()).decode()}"}
    return (
        {settings.dagster_identity_header: "seg-pipeline"}
        if settings.dagster_identity_header
        else {}
    )


def check_sample(settings: Settings, supervisor: Supervisor, say: Say) -> None:
    """Shows the sample. Raises SupervisorError if it fails or has no segments."""
    try:
        check_found(show_sample(settings, supervisor, say))
    except SampleFailed as error:
        raise SupervisorError(f"the sample failed: {error}") from error


def try_sample(settings: Settings, supervisor: Supervisor, say: Say) -> None:
    """Shows the sample. A failure is only a line, since the service is up."""
    try:
        show_sample(settings, supervisor, say)
    except SampleFailed as error:
        say(f"The sample failed: {error}")


_LOADING = " Each worker loads the model at its first picture."


def show_sample(settings: Settings, supervisor: Supervisor, say: Say) -> SegmentedSample:
    """Sends the sample, prints its answer, and sends it again.

    Another worker may take it then, whose model is not loaded yet.
    """
    picture = sample_picture(settings.model)
    sample = _send(settings, picture, supervisor)
    say(_essence(sample.document))
    say(f"{picture.name}: {sample.found} segments in {sample.seconds:.1f} s.")
    again = _send(settings, picture, supervisor)
    say(f"Once more: {again.seconds:.1f} s.{_LOADING if not settings.warm_models else ''}")
    if overlay := sample.document.get("overlay_url"):
        say(f"The picture with its segments: {overlay}")
    if uuid := sample.document.get("uuid"):
        say(f"Its lineage in Dagster: {job_page(settings, uuid)}")
    return sample


def check_found(sample: SegmentedSample) -> None:
    """Raises SupervisorError if the sample has no segments."""
    if not sample.found:
        raise SupervisorError("nothing was found in the sample.")


def _essence(document: Mapping[str, Any]) -> str:
    """The answer as JSON, its long lists cut and its innermost objects on one line."""
    names = ("uuid", "status", "model", "file_names", "urls", "segments", "expires_at", "error")
    text = json.dumps(
        abridged({name: document[name] for name in names if document.get(name) is not None}),
        indent=2,
    )
    return re.sub(r"\{[^{}\[\]]+\}", lambda innermost: " ".join(innermost[0].split()), text)


def _send(settings: Settings, picture: Path, supervisor: Supervisor) -> SegmentedSample:
    """Sends the sample from a thread, so that the processes are supervised meanwhile.

    Sends it once more whenever the API was ended. Raises SampleFailed.
    """
    keys = settings.api_keys.get_secret_value().split(",") if settings.api_keys else [None]
    uuid, give_up_at = f"sample-{secrets.token_hex(8)}", time.monotonic() + SAMPLE_SECONDS
    while True:
        outcome: list[SegmentedSample | SampleFailed] = []
        _in_background(
            partial(
                _try_into, outcome, lambda: send_sample(base_url(settings), picture, keys[0], uuid)
            )
        )
        supervisor.run_until(partial(bool, outcome))
        if isinstance(outcome[0], SegmentedSample):
            return outcome[0]
        if not isinstance(outcome[0], ApiAway) or time.monotonic() > give_up_at:
            raise outcome[0]
        supervisor.wait_until_ready()


def _try_into(
    outcome: list[SegmentedSample | SampleFailed], send: Callable[[], SegmentedSample]
) -> None:
    try:
        outcome.append(send())
    except SampleFailed as error:
        outcome.append(error)


def _in_background(work: Callable[[], object]) -> None:
    threading.Thread(target=work, name="sample", daemon=True).start()


def show_addresses(settings: Settings, say: Say) -> None:
    """Prints the addresses of the page, the API, the UI and the logs."""
    say(f"Page     {base_url(settings)}  (drop a picture there)")
    say(f"API      {base_url(settings)}/docs")
    say(f"Dagster  {dagster_url(settings)}")
    say(f"Logs     {logs(settings)}/")
    say("Ctrl-C stops everything.")
