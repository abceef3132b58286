"""Dockerfile and compose files against what they name: there is no Docker where these tests run.

What only a build or a start can show was tried by hand; `docs/docker.md` says how.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
import yaml

from seg_pipeline.jobs.heartbeats import (
    FetcherHeartbeat,
    WorkerHeartbeat,
    write_fetcher_heartbeat,
    write_heartbeat,
)
from seg_pipeline.local import stack
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.serving import serving

ROOT = Path(__file__).parent.parent
PRODUCTION, DEVELOPMENT = "docker-compose.yml", "docker-compose-dev.yml"
COMPOSE_FILES = (PRODUCTION, DEVELOPMENT)
NOT_SETTINGS = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DAGSTER_HOME", "HYPOTHESIS_STORAGE_DIRECTORY",
    "POSTGRES_PASSWORD",
}  # fmt: skip
SETTINGS = {name.upper() for name in Settings.model_fields} | NOT_SETTINGS


def compose(name: str) -> dict[str, Any]:
    """A compose file, its merges done."""
    document: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return document


def services() -> list[Any]:
    """Every service of every file, with a name that a failure can be found by."""
    return [
        pytest.param(file, name, service, id=f"{file}-{name}")
        for file in COMPOSE_FILES
        for name, service in compose(file)["services"].items()
    ]


def is_ours(service: dict[str, Any]) -> bool:
    """Whether it runs our image."""
    return bool(service["image"].startswith("seg-pipeline:"))


def commands_of(service: dict[str, Any]) -> list[list[str]]:
    """What it runs, its health check included."""
    test = service.get("healthcheck", {}).get("test", [])
    return [command for command in (service.get("command"), test[1:]) if command]


def instructions(name: str) -> list[list[str]]:
    """The words after each instruction of this name in the Dockerfile, as they come."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{name} ")]


def script(name: str) -> ModuleType:
    """A file of `docker/`, imported."""
    loader = SourceFileLoader(name, str(ROOT / "docker" / f"{name}.py"))
    module = module_from_spec(ModuleSpec(loader.name, loader, origin=loader.path))
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", COMPOSE_FILES)
@pytest.mark.process
def test_a_compose_file_fits_the_specification(file: str) -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        file,
    ]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_a_service_says_why_it_exists(file: str, name: str, service: dict[str, Any]) -> None:
    assert re.search(rf"^  # .*\n  {name}:$", (ROOT / file).read_text(), flags=re.MULTILINE), (
        service
    )


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_the_manual_names_every_service(file: str) -> None:
    manual = (ROOT / "docs" / "docker.md").read_text()
    assert [name for name in compose(file)["services"] if f"`{name}`" not in manual] == []


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_what_a_service_runs_exists(file: str, name: str, service: dict[str, Any]) -> None:
    for command in commands_of(service) if is_ours(service) else []:
        if command[:2] == ["python", "-m"]:
            assert find_spec(command[2]), command
        elif command[0] == "python":
            assert (ROOT / command[1]).is_file(), command
        else:
            assert shutil.which(command[0], path=str(Path(sys.executable).parent)), (
                f"{file} {name}: {command}"
            )


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_what_a_service_refers_to_exists(file: str, name: str, service: dict[str, Any]) -> None:
    whole = compose(file)
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in whole["volumes"], (
            volume
        )
    for needed, how in service.get("depends_on", {}).items():
        assert (
            how["condition"] != "service_healthy"
            or "test" in whole["services"][needed]["healthcheck"]
        ), needed
    network = service.get("network_mode", f"service:{name}").removeprefix("service:")
    assert network in whole["services"]


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_every_variable_is_a_setting(file: str, name: str, service: dict[str, Any]) -> None:
    """A misspelt one would be ignored in silence."""
    if is_ours(service):
        assert service.get("environment", {}).keys() <= SETTINGS
    assert set(re.findall(r"\$\{([A-Z_]+)", (ROOT / file).read_text())) <= SETTINGS


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_only_what_has_a_key_or_serves_machines_is_reached_from_outside(
    file: str, name: str, service: dict[str, Any]
) -> None:
    """The Dagster UI has no password, and whoever reaches the broker or the database runs what he
    likes."""
    open_ports = [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")]
    assert open_ports == (["8000:8000"] if (file, name) == (PRODUCTION, "api") else [])


def test_every_service_in_production_is_watched_and_comes_back() -> None:
    """Those that run once are tried again and have nothing to watch."""
    for name, service in compose(PRODUCTION)["services"].items():
        if service["restart"] != "on-failure:5":
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_the_processes_in_production_are_those_of_make_run(tmp_path: Path) -> None:
    """The supervisor's list and the compose file's must not drift apart."""
    by_hand = {program.name for program in stack.programs(make_settings(tmp_path))}
    assert by_hand | {"postgres", "redis"} == compose(PRODUCTION)["services"].keys()


def test_the_code_server_is_where_the_others_look_for_it() -> None:
    """One setting, which the code server takes its port from and the others its address."""
    services = compose(PRODUCTION)["services"]
    host, _, port = services["daemon"]["environment"]["CODE_SERVER"].rpartition(":")
    assert services[host]["command"][:2] == ["seg-pipeline", "code-server"]
    assert port in services[host]["healthcheck"]["test"]


@pytest.mark.parametrize("target", ["cpu", "cuda", "dev"])
def test_a_target_ends_as_a_user_without_rights(target: str) -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage = next(stage for stage in stages if re.match(rf"\S+ AS {target}\n", stage))
    assert re.findall(r"^USER (\S+)", stage, flags=re.MULTILINE)[-1:] == ["seg"]


def test_a_build_without_a_target_makes_the_one_for_a_cpu() -> None:
    assert instructions("FROM")[-1][-1] == "cpu"


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:].rstrip("/") for line in ignored if line.startswith("!")]
    assert "*" in ignored
    assert all((ROOT / path).exists() for path in sent)
    for *sources, _ in instructions("COPY"):
        for source in sources:
            assert source == "." or any(Path(source).is_relative_to(path) for path in sent), source
    assert {"dagster.yaml", "api", "seg_pipeline", "docker"} <= set(sent)


def test_the_image_listens_on_the_ports_that_it_exposes() -> None:
    variables = dict(word.split("=", 1) for words in instructions("ENV") for word in words)
    assert {variables["API_PORT"], variables["DAGSTER_PORT"]} == set(instructions("EXPOSE")[0])
    known = {"PATH", "PYTHONUNBUFFERED", "UV_LINK_MODE"} | {
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    }
    assert variables.keys() - known <= SETTINGS
    assert instructions("VOLUME") == [[variables["DATA_DIR"]]]


def test_the_files_name_no_registry() -> None:
    """Images and packages come from wherever the machine is configured to take them."""
    for path in [
        ROOT / "Dockerfile",
        *(ROOT / file for file in COMPOSE_FILES),
        *(ROOT / "docker").glob("*"),
    ]:
        if path.is_file():
            hosts = re.findall(r"\w+://([^/:}\"]+)", path.read_text())
            assert set(hosts) <= {"127.0.0.1", "localhost", "redis", "seg"}, path
    for image in [
        service["image"] for file in COMPOSE_FILES for service in compose(file)["services"].values()
    ]:
        assert "/" not in image


def test_the_lock_for_a_cpu_lacks_only_what_a_gpu_needs(tmp_path: Path) -> None:
    install = script("install")
    lock = tmp_path / "requirements.lock"
    lock.write_text((ROOT / "requirements.lock").read_text())
    before, after = lock.read_text(), install.without(lock, install.ONLY_WITH_A_GPU).read_text()
    names = [
        set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE)) for text in (before, after)
    ]
    assert names[0] - names[1] == set(install.ONLY_WITH_A_GPU)
    assert set(after.splitlines()) <= set(before.splitlines())


def test_a_healthy_service_is_told_from_a_sick_one() -> None:
    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(
            "200 OK" if environ["PATH_INFO"] == "/well" else "503 Service Unavailable", []
        )
        return [b"no worker"]

    healthy = script("healthy")
    with serving(answer) as url:
        assert healthy.http_failure(f"{url}/well") is None
        assert "503 no worker" in healthy.http_failure(f"{url}/sick")
    assert healthy.http_failure(f"{url}/gone")


def test_a_worker_is_healthy_while_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, settings, now = script("healthy"), make_settings(tmp_path), datetime.now(UTC)
    monkeypatch.setattr("seg_pipeline.settings.get_settings", lambda: settings)
    write_heartbeat(
        open_store(settings), WorkerHeartbeat("other", 1, "elsewhere", beat_at=now, started_at=now)
    )
    assert "no worker of" in healthy.beat_failure("worker")
    write_heartbeat(
        open_store(settings),
        WorkerHeartbeat("own", 1, socket.gethostname(), beat_at=now, started_at=now),
    )
    assert healthy.beat_failure("worker") is None


def test_a_fetcher_is_healthy_while_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, settings, now = script("healthy"), make_settings(tmp_path), datetime.now(UTC)
    monkeypatch.setattr("seg_pipeline.settings.get_settings", lambda: settings)
    write_fetcher_heartbeat(open_store(settings), FetcherHeartbeat("other", 1, "elsewhere", now))
    assert "no fetcher of" in healthy.beat_failure("fetcher")
    write_fetcher_heartbeat(
        open_store(settings), FetcherHeartbeat("own", 1, socket.gethostname(), now)
    )
    assert healthy.beat_failure("fetcher") is None


def test_the_stand_in_gets_a_bucket_and_a_queue_with_its_dead_letters(
    aws_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, since `docker compose up` may come twice."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "development")
    queue_url = f"{aws_endpoint}/123456789012/jobs-of-docker"
    addresses = {"s3_endpoint_url": aws_endpoint, "sqs_endpoint_url": aws_endpoint}
    settings = make_settings(
        tmp_path, s3_bucket="bucket-of-docker", sqs_queue_url=queue_url, **addresses
    )
    resources = script("make_resources")
    monkeypatch.setattr(resources, "get_settings", lambda: settings)
    resources.main()
    resources.main()
    names = {"endpoint_url": aws_endpoint, "region_name": settings.aws_region}
    assert boto3.client("s3", **names).list_objects_v2(Bucket="bucket-of-docker")["KeyCount"] == 0
    client = boto3.client("sqs", **names)
    attributes = client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["RedrivePolicy"])[
        "Attributes"
    ]
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(
        ":jobs-of-docker-dead"
    )


def test_the_weights_that_workers_will_want_are_pulled(tmp_path: Path) -> None:
    """A queue's model is large; without a queue nobody asks for it."""
    models = {"model": "demo-yolo", "queue_model": "demo-sam2"}
    assert make_settings(tmp_path, **models).wanted_models == ["demo-yolo"]
    assert make_settings(tmp_path, sqs_queue_url="here", **models).wanted_models == [
        "demo-yolo",
        "demo-sam2",
    ]
