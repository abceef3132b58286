"""Servers of this machine: what is missing is one sentence, and what is there is used."""

import shutil
from pathlib import Path

import pytest

from seg_pipeline.local import servers
from seg_pipeline.local.servers import with_servers
from seg_pipeline.local.supervisor import SupervisorError
from seg_pipeline_tests.conftest import make_settings


def test_servers_that_are_not_installed_are_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(servers, "DEBIAN_POSTGRES", tmp_path)
    with pytest.raises(SupervisorError, match=r"redis-server .* and postgresql .* apt-get install"):
        with_servers(make_settings(tmp_path))


def test_servers_elsewhere_are_used_as_they_are_named(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, broker_url="redis://elsewhere/0", database_url="postgresql://elsewhere/runs"
    )
    found = with_servers(settings)
    assert found.programs == []
    assert found.settings == settings


def test_no_two_programs_of_a_service_get_the_same_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them listens yet when the ports are chosen."""
    ports = range(31_000, 31_005)
    monkeypatch.setattr(servers, "PORTS", ports)
    monkeypatch.setattr(servers, "_check_installed", lambda _: None)
    monkeypatch.setattr(servers, "_redis", lambda *_: "redis")
    monkeypatch.setattr(servers, "_postgres", lambda *_: "postgres")
    for _ in range(20):
        own = make_settings(tmp_path, api_port=ports[0], dagster_port=ports[1])
        chosen = with_servers(own).settings
        assert len(servers.ports_of(chosen)) == 4
        assert servers.free_port(servers.ports_of(chosen)) not in servers.ports_of(chosen)


def test_a_url_of_a_port_that_cannot_be_names_none(tmp_path: Path) -> None:
    odd = make_settings(tmp_path, broker_url="redis://elsewhere:99999/0")
    assert servers.ports_of(odd) == {odd.api_port, odd.dagster_port, 0}


def test_the_password_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "password"
    password = servers._password(path)
    assert len(password) == 32
    assert servers._password(path) == password
    assert path.stat().st_mode & 0o777 == 0o600


def test_postgres_keeps_its_folder_where_its_user_may_enter(tmp_path: Path) -> None:
    assert servers._postgres_folder(tmp_path, None, "a") == tmp_path / "postgres"
    tmp_path.chmod(0o700)
    elsewhere = {servers._postgres_folder(tmp_path, "postgres", password) for password in "ab"}
    assert len(elsewhere) == 2
    assert all(folder.is_relative_to("/var/tmp") for folder in elsewhere)


def test_the_newest_postgres_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("9.6", "15", "16"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "initdb").touch()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(servers, "DEBIAN_POSTGRES", tmp_path)
    assert servers.postgres_programs() == tmp_path / "16" / "bin"
