"""What `make run` starts: the API, a worker and Dagster's three processes, on one machine, with no other server."""

import base64
import contextlib
import fcntl
import http.client
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seg_pipeline.local.sample import Sample, SampleFailed, abridged, ask, sample_picture, send_sample
from seg_pipeline.local.supervisor import Program, Say, Supervisor, SupervisorError
from seg_pipeline.settings import Settings

DEMO = {"model": "demo-yolo", "queue_model": "demo-sam2"}
LOCATION_NAME = "seg_pipeline.definitions"
"""What Dagster calls our code; its sensors' and schedules' states are kept under this name."""

PROJECT = Path(__file__).parents[2]
WEIGHTS_SECONDS = 3600.0
WAITS_FOR_WORK: dict[str, Any] = {"stop_seconds": 1.5, "may_be_killed": True, "hushed": "dangling STARTED tick"}
"""Daemon and code server stop only after the tick in which they wait for work, up to 20 s. If that is all they do we do
not wait for it; the next start finds the tick unfinished, says so and drops it."""


def run(settings: Settings, with_sample: bool, exit_after_sample: bool, say: Say) -> None:
    """Starts everything and keeps it running, or stops it once the sample has been segmented.

    Raises StopRequested when a signal ended it, and SupervisorError with what the user should read.
    """
    began = time.monotonic()
    settings, is_demo = with_demo_models(settings)
    with only_one(settings.data_dir):
        check_ports(settings)
        say(f"Starting with {settings.model} ...")
        if is_demo:
            say("This demo model knows only generated shapes; `MODEL=yolov8x-seg make run` takes a real one.")
        with Supervisor(programs(settings), logs(settings), say) as supervisor:
            try:
                supervisor.wait_until_ready()
                say(f"Everything is up after {time.monotonic() - began:.1f} s.")
                _serve(settings, supervisor, with_sample, exit_after_sample, say)
            finally:
                say("Stopping ...")


def _serve(settings: Settings, supervisor: Supervisor, with_sample: bool, exit_after_sample: bool, say: Say) -> None:
    if exit_after_sample:
        check_found(show_sample(settings, supervisor, say))
        return
    if with_sample:
        show_sample(settings, supervisor, say)
    show_addresses(settings, say)
    supervisor.run_until(lambda: False)


def with_demo_models(settings: Settings) -> tuple[Settings, bool]:
    """The settings with the bundled models, if the user named none; and whether that is so."""
    if "model" in settings.model_fields_set:
        return settings, False
    unset = {name: model for name, model in DEMO.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=unset), True


def logs(settings: Settings) -> Path:
    """The folder of the processes' logs."""
    return settings.data_dir / "logs"


def check_ports(settings: Settings) -> None:
    """Raises SupervisorError if a port that users know is taken."""
    if settings.api_port == settings.dagster_port:
        raise SupervisorError(f"API_PORT and DAGSTER_PORT are both {settings.api_port}; change one of them.")
    _check_port("API_PORT", settings.api_host, settings.api_port)
    _check_port("DAGSTER_PORT", settings.dagster_host, settings.dagster_port)


def _check_port(name: str, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SupervisorError(f"port {port} on {host}: {reason}; stop what uses it, or set {name}.") from error


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Holds the data folder against a second start; raises SupervisorError if one is running."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with (data_dir / "seg-pipeline.pid").open("a+", encoding="ascii") as file:
            _take(file, data_dir)
            yield
            file.truncate(0)
    except OSError as error:
        raise SupervisorError(f"the data folder {data_dir} cannot be used: {error.strerror}; set DATA_DIR.") from error


def _take(file: IO[str], data_dir: Path) -> None:
    file.seek(0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = file.read().strip() or "of unknown number"
        raise SupervisorError(f"already running on {data_dir} (process {process}); stop it or set DATA_DIR.") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def programs(settings: Settings) -> list[Program]:
    """The processes, in the order in which they are listed to the user.

    Dagster's tables are made by one process before others look; the code server is there before those that ask it,
    since the daemon would look again only a minute later. The API is stopped first, so that nothing new comes in.
    """
    code_port = free_port()
    workspace = write_dagster_home(settings, code_port) / "workspace.yaml"
    api, dagster = base_url(settings), dagster_url(settings)
    one, many = _environments(settings)
    python, host = sys.executable, "127.0.0.1"
    # Four sensors' ticks wait inside the code server, and by default it has hardly more threads than cores.
    grpc = ["api", "grpc", "--module-name", LOCATION_NAME, "--host", host, "--port", str(code_port), "-n", "16"]
    web = ["--host", settings.dagster_host, "--port", str(settings.dagster_port), "--workspace", str(workspace)]
    return [
        Program("weights", [python, "-m", "seg_pipeline.cli", "weights", "pull"], one, once=True,
                shown="^downloading ", ready_within_seconds=WEIGHTS_SECONDS),
        Program("tables", [python, "-m", "seg_pipeline.runtime.dagster_storage"], one, once=True),
        Program("api", [python, "-m", "api.main"], one, is_ready=lambda: _is_ok(f"{api}/livez"), stop_seconds=8),
        Program("worker", [python, "-m", "seg_pipeline.runtime.worker"], many, after=("weights", "tables"),
                is_ready=lambda: _is_ok(f"{api}/readyz"), hushed="Dependencies for step", stop_turn=1, stop_seconds=10),
        Program("code-server", [python, "-m", "dagster", *grpc], one, after=("tables",),
                is_ready=lambda: _listens(host, code_port), stop_turn=1, **WAITS_FOR_WORK),
        Program("webserver", [python, "-m", "seg_pipeline.runtime.webserver", *web], one, after=("code-server",),
                is_ready=lambda: _is_ok(f"{dagster}/server_info"), stop_turn=1),
        Program("daemon", [python, "-m", "seg_pipeline.runtime.daemon", "--workspace", str(workspace)], one,
                after=("code-server",), is_ready=lambda: _daemons_beat(settings), stop_turn=1,
                **WAITS_FOR_WORK),
    ]  # fmt: skip


def free_port() -> int:
    """A port on this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def write_dagster_home(settings: Settings, code_port: int) -> Path:
    """Dagster's folder with its configuration and the address of the code server; absolute."""
    home = settings.data_dir.absolute() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_bytes((PROJECT / "dagster.yaml").read_bytes())
    server = {"host": "127.0.0.1", "port": code_port, "location_name": LOCATION_NAME}
    (home / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    return home


def _environments(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """For a process that computes little, and for the worker: they differ in the threads that they may take."""
    shared = {
        **os.environ,
        **_without_proxy(os.environ),
        **_changed(settings),
        "DAGSTER_HOME": str(settings.data_dir.absolute() / "dagster"),
        "PYTHONUNBUFFERED": "1",
    }
    shared.pop("PYTHONDONTWRITEBYTECODE", None)  # without compiled files every start takes twice as long
    return {"OMP_NUM_THREADS": "1", **shared}, {"OMP_NUM_THREADS": str(usable_cores()), **shared}


def _without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """The processes talk to one another directly, whatever proxy this machine uses for the rest (gRPC asks too)."""
    names = {"NO_PROXY": environment.get("NO_PROXY", ""), "no_proxy": environment.get("no_proxy", "")}
    return {name: ",".join(filter(None, [hosts, "localhost", "127.0.0.1", "::1"])) for name, hosts in names.items()}


def _changed(settings: Settings) -> dict[str, str]:
    """What the children could not read from the environment and `.env` themselves."""
    names = ("model", "queue_model", "api_host", "api_port", "dagster_host", "dagster_port")
    paths = {"DATA_DIR": str(settings.data_dir.absolute()), "WEIGHTS_DIR": str(settings.weights_dir.absolute())}
    return {name.upper(): str(getattr(settings, name)) for name in names} | paths


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores that this process may use, also in a container with a limit (cgroup v2), which torch does not see."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        share, period = quota.read_text().split()
        cores = min(cores, max(1, round(int(share) / int(period))))
    return cores


def base_url(settings: Settings) -> str:
    """The API's address, seen from this machine."""
    return f"http://{_reachable(settings.api_host)}:{settings.api_port}"


def dagster_url(settings: Settings) -> str:
    """The Dagster UI's address, seen from this machine."""
    return f"http://{_reachable(settings.dagster_host)}:{settings.dagster_port}"


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _is_ok(url: str) -> bool:
    try:
        return ask("GET", url, timeout_seconds=1).status == 200
    except (OSError, http.client.HTTPException):
        return False


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _daemons_beat(settings: Settings) -> bool:
    """Whether the daemon's parts have all said that they are well; the UI is asked."""
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
    """The header by which the UI lets us in, if it asks who we are."""
    if settings.dagster_password:
        password = settings.dagster_password.get_secret_value().strip()
        return {"authorization": f"Basic {base64.b64encode(f':{password}'.encode()).decode()}"}
    return {settings.dagster_identity_header: "seg-pipeline"} if settings.dagster_identity_header else {}


def show_sample(settings: Settings, supervisor: Supervisor, say: Say) -> Sample:
    """Sends the sample, prints its answer, and sends it again for the time with a warm model."""
    picture = sample_picture(settings.model)
    sample = _send(settings, picture, supervisor)
    say(_essence(sample.document))
    say(f"{picture.name}: {sample.found} segments in {sample.seconds:.1f} s, most of it loading the model.")
    again = _send(settings, picture, supervisor)
    say(f"Once more, now that it is warm: {again.seconds:.1f} s.")
    return sample


def check_found(sample: Sample) -> None:
    """Raises SupervisorError if the sample has no segments."""
    if not sample.found:
        raise SupervisorError("nothing was found in the sample.")


def _essence(document: Mapping[str, Any]) -> str:
    """The answer as JSON, its long lists cut and its innermost objects on one line."""
    names = ("uuid", "status", "model", "file_names", "urls", "segments", "expires_at", "error")
    text = json.dumps(abridged({name: document[name] for name in names if document.get(name) is not None}), indent=2)
    return re.sub(r"\{[^{}\[\]]+\}", lambda innermost: " ".join(innermost[0].split()), text)


def _send(settings: Settings, picture: Path, supervisor: Supervisor) -> Sample:
    """Sends it from a thread, so that the processes are looked after meanwhile."""
    keys = settings.api_keys.get_secret_value().split(",") if settings.api_keys else [None]
    outcome: list[Sample | SampleFailed] = []
    _in_background(lambda: outcome.append(_try(lambda: send_sample(base_url(settings), picture, keys[0]))))
    supervisor.run_until(lambda: bool(outcome))
    if isinstance(outcome[0], SampleFailed):
        raise SupervisorError(f"the sample failed: {outcome[0]}")
    return outcome[0]


def _try(send: Callable[[], Sample]) -> Sample | SampleFailed:
    try:
        return send()
    except SampleFailed as error:
        return error


def _in_background(work: Callable[[], object]) -> None:
    threading.Thread(target=work, name="sample", daemon=True).start()


def show_addresses(settings: Settings, say: Say) -> None:
    """Where to go from here."""
    say(f"API      {base_url(settings)}  (documentation: {base_url(settings)}/docs)")
    say(f"Dagster  {dagster_url(settings)}")
    say(f"Logs     {logs(settings)}/")
    say("Ctrl-C stops everything.")
