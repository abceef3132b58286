"""What each process is started with, and what it is handed."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from seg_pipeline.local.processes import (
    PROJECT,
    CodeServer,
    environment_of,
    processes,
    usable_cores,
    write_dagster_home,
    write_workspace,
)
from seg_pipeline.runtime.preparation import STEPS
from seg_pipeline_tests.conftest import make_settings


def test_a_container_s_share_of_the_cores_is_what_counts(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    everything = usable_cores(tmp_path / "none")
    for text, cores in [("50000 100000", 1), ("100000 100000", 1), ("max 100000", everything)]:
        quota.write_text(text)
        assert usable_cores(quota) == cores


CODE = CodeServer("127.0.0.1", 4000)


def test_every_process_prepares_what_it_needs_by_a_step_that_there_is(tmp_path: Path) -> None:
    found = processes(make_settings(tmp_path), CODE, tmp_path / "workspace.yaml")
    assert {name: list(process.needs) for name, process in found.items()} == {
        "api": ["store"],
        "worker": ["tables", "broker", "store", "weights"],
        "fetcher": ["store"],
        "code-server": ["tables", "broker", "store"],
        "webserver": ["tables"],
        "daemon": ["tables", "broker"],
    }
    assert {need for process in found.values() for need in process.needs} == STEPS.keys()


def test_every_process_is_a_module_of_ours(tmp_path: Path) -> None:
    for process in processes(make_settings(tmp_path), CODE, tmp_path / "w.yaml").values():
        assert find_spec(process.module) is not None
        assert process.command[:3] == [sys.executable, "-m", process.module]


def test_the_code_server_listens_where_it_is_told_and_the_ui_where_the_settings_say(
    tmp_path: Path,
) -> None:
    settings = make_settings(tmp_path, dagster_host="0.0.0.0", dagster_port=3131)
    found = processes(settings, CodeServer("code", 4123), tmp_path / "w.yaml", "0.0.0.0")
    code = " ".join(found["code-server"].arguments)
    assert "--host 0.0.0.0 --port 4123" in code
    web = " ".join(found["webserver"].arguments)
    assert f"--host 0.0.0.0 --port 3131 --workspace {tmp_path / 'w.yaml'}" == web


def test_the_workspace_leads_to_the_code_server_and_is_written_whole(tmp_path: Path) -> None:
    for port in (4000, 4001):
        path = write_workspace(tmp_path, CodeServer("code", port))
        (entry,) = yaml.safe_load(path.read_text())["load_from"]
        assert entry["grpc_server"] == {
            "host": "code",
            "port": port,
            "location_name": "seg_pipeline.definitions",
        }
    assert os.listdir(tmp_path) == ["workspace.yaml"]


def test_dagsters_folder_has_its_configuration(tmp_path: Path) -> None:
    home = write_dagster_home(make_settings(tmp_path))
    assert home == tmp_path / "data" / "dagster"
    assert (home / "dagster.yaml").read_text() == (PROJECT / "dagster.yaml").read_text()


def test_a_process_is_handed_the_settings_in_force_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may run elsewhere, and has not seen the options of the command line."""
    monkeypatch.setenv("API_PORT", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = make_settings(Path(), api_port=8123, broker_url="redis://here:1/0")
    found = environment_of(settings)
    assert found["API_PORT"] == "8123"
    assert found["BROKER_URL"] == "redis://here:1/0"
    assert "DATABASE_URL" not in found
    assert found["DATA_DIR"] == str(tmp_path / "data")
    assert found["DAGSTER_HOME"] == str(tmp_path / "data" / "dagster")
    assert "PYTHONDONTWRITEBYTECODE" not in found


def test_a_dagster_home_that_the_operator_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/srv/dagster")
    assert environment_of(make_settings(tmp_path))["DAGSTER_HOME"] == "/srv/dagster"


def test_no_proxy_comes_between_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.delenv("no_proxy", raising=False)
    found = environment_of(make_settings(tmp_path))
    assert found["NO_PROXY"] == "example.com,localhost,127.0.0.1,::1"
    assert found["no_proxy"] == "localhost,127.0.0.1,::1"
