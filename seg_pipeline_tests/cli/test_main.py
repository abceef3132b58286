"""The command: what it says of itself, and of settings that are none."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seg_pipeline.cli.main import app
from seg_pipeline.settings import unknown_names_in_env_file

COMMANDS = [
    each.name or each.callback.__name__ for each in app.registered_commands if each.callback
]


def say(*arguments: str) -> str:
    """What the command prints."""
    return CliRunner().invoke(app, arguments, terminal_width=200).output


def test_it_knows_its_version() -> None:
    assert say("--version").strip() == say("version").strip() == version("seg-pipeline")


@pytest.mark.parametrize("command", [[], *([each] for each in COMMANDS), ["weights", "pull"]])
def test_every_help_has_an_example(command: list[str]) -> None:
    assert "Example: " in say(*command, "--help")


def test_a_name_in_env_that_is_no_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MODLE=yolov8n-seg\nCOMPOSE_FILE=a.yml\nMODEL=demo-yolo\n")
    shown = say("settings")
    assert "WARNING .env sets MODLE, which is no setting: did you mean MODEL?" in shown
    assert "COMPOSE_FILE" not in shown


def test_a_name_that_is_like_no_other_is_named_too(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    assert unknown_names_in_env_file(env) == []
    env.write_text("QQQQQ=1\nhttps_proxy=http://proxy.example\n")
    assert len(unknown_names_in_env_file(env)) == 1


def test_the_settings_say_what_up_takes_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL", raising=False)
    assert "takes the demo models" in say("settings")
    monkeypatch.setenv("MODEL", "demo-yolo")
    assert "takes the demo models" not in say("settings")


@pytest.mark.process
def test_a_quick_command_loads_no_model_library() -> None:
    code = (
        "import sys, seg_pipeline.cli.main;"
        "print([each for each in ('torch', 'ultralytics', 'dagster', 'httpx', 'cv2')"
        " if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
