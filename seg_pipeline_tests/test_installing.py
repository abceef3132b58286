"""The files that make an environment agree with one another, and an environment that is up to date
is left alone."""

import os
import re
import subprocess
import tomllib
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from seg_pipeline.cli.main import app, env_example
from seg_pipeline.settings import Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-dev.lock")


def locked(lock: str) -> dict[str, set[str]]:
    """Each distribution's versions; several where Python versions differ."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(), flags=re.MULTILINE
    ):
        versions.setdefault(name, set()).add(version)
    return versions


def names_of(requirements: list[str]) -> set[str]:
    """The distributions that are asked for, without versions and extras."""
    return {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in requirements}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`scripts/environment.py`, over a project of its own."""
    loader = SourceFileLoader("environment", str(ROOT / "scripts" / "environment.py"))
    module = module_from_spec(ModuleSpec(loader.name, loader, origin=loader.path))
    module.__file__ = loader.path
    loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp")
    monkeypatch.setattr(module, "LOCK", tmp_path / "requirements-dev.lock")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements-dev.lock", ".venv/bin/python"):
        (tmp_path / name).write_text("project = {version = '1'}")
    return module


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """`make lock` brings them up to date."""
    asked = names_of(PROJECT["project"]["dependencies"])
    assert asked <= locked("requirements.lock").keys()
    assert (
        asked | names_of(PROJECT["dependency-groups"]["dev"])
        <= locked("requirements-dev.lock").keys()
    )


def test_what_both_locks_hold_is_the_same_version() -> None:
    """Tests run against what is served."""
    served, developed = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {
        name: versions for name, versions in served.items() if developed.get(name) != versions
    } == {}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_checks_hashes_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    for requirement in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        assert "--hash=sha256:" in requirement, requirement


def test_an_environment_that_is_current_is_left_alone(environment: ModuleType) -> None:
    environment.STAMP.write_text(environment.fingerprint())
    assert environment.is_current()


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements-dev.lock"])
def test_a_change_in_what_it_was_made_from_makes_it_anew(
    environment: ModuleType, name: str
) -> None:
    environment.STAMP.write_text(environment.fingerprint())
    (environment.ROOT / name).write_text("project = {version = '2'}")
    assert not environment.is_current()


def test_what_linters_are_told_changes_no_environment(environment: ModuleType) -> None:
    environment.STAMP.write_text(environment.fingerprint())
    (environment.ROOT / "pyproject.toml").write_text(
        "project = {version = '1'}\n[tool.ruff]\nline-length = 80"
    )
    assert environment.is_current()


def test_an_environment_whose_python_is_gone_or_that_was_never_finished_is_made_anew(
    environment: ModuleType,
) -> None:
    assert not environment.is_current()
    environment.STAMP.write_text(environment.fingerprint())
    environment.PYTHON.unlink()
    assert not environment.is_current()


def test_uv_gets_the_index_that_pip_was_told(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's mirror is set up once, mostly in pip.conf, which uv does not read."""
    listing = "global.index-url='https://mirror.invalid/simple'\nglobal.cert='/etc/mirror.pem'\n:env:.timeout='9'"
    monkeypatch.setattr(environment, "answer_of", lambda _command: listing)
    monkeypatch.setattr(environment, "UV_CONFIG_FILES", ())
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    given = environment.step_environment()
    assert given["UV_DEFAULT_INDEX"] == "https://mirror.invalid/simple"
    assert given["SSL_CERT_FILE"] == "/etc/mirror.pem"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://ours.invalid/simple")
    assert environment.step_environment()["UV_DEFAULT_INDEX"] == "https://ours.invalid/simple"


def test_an_old_python_is_refused_in_one_sentence(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 13))
    with pytest.raises(
        SystemExit, match=r"Python 3\.11, 3\.12, 3\.13 or 3\.14 is needed; .* is 3\."
    ):
        environment.main()


def test_make_lists_its_targets() -> None:
    """Without a target, so that a newcomer who types `make` learns what there is."""
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    listed = subprocess.run(
        ["make"], cwd=ROOT, env=outside, capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[
        0
    ].split()
    assert [line.split()[1] for line in listed.splitlines()] == targets


def test_the_example_of_a_dotenv_file_is_up_to_date() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), (
        "run seg-pipeline settings --example > .env.example"
    )


def test_the_example_of_a_dotenv_file_gives_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncommenting everything changes nothing."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    everything = tmp_path / "everything"
    everything.write_text(re.sub(r"^#(?=[A-Z])", "", env_example(), flags=re.MULTILINE))
    nothing = tmp_path / "nothing"
    assert Settings(_env_file=everything) == Settings(_env_file=nothing)


def test_settings_are_shown_without_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "sesame")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:sesame@db/runs")
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["settings"]).stdout
    assert "sesame" not in shown
    assert "postgresql://********@db/runs" in shown


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["version"]).stdout.strip() == PROJECT["project"]["version"]
