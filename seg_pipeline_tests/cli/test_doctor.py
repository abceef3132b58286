"""`seg-pipeline doctor`: a line for each check, whatever the checks do, and an honest exit code."""

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seg_pipeline.cli.checks_here import Wrong
from seg_pipeline.cli.doctor import Finding, examine, examine_all, report
from seg_pipeline.cli.main import app
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import free_ports
from seg_pipeline_tests.serving import serving

ALWAYS = {"versions", "API_PORT", "DAGSTER_PORT", "weights", "GPU", "DATA_DIR", "store", "clock"}


def test_a_check_that_hangs_breaks_or_complains_is_a_finding() -> None:
    def complain() -> str:
        raise Wrong("it is off;\n  turn it on.")

    assert examine("a", complain) == Finding("a", False, "it is off; turn it on.")
    assert "ZeroDivisionError" in examine("a", lambda: str(1 / 0)).message
    hanging = examine("a", lambda: str(threading.Event().wait(60)), 0.1)
    assert (hanging.ok, "no answer within 0.1 s" in hanging.message) == (False, True)


def test_what_is_not_set_is_not_checked(tmp_path: Path) -> None:
    api, dagster = free_ports(2)
    settings = make_settings(tmp_path, api_port=api, dagster_port=dagster, device="cpu")
    findings = {each.name: each for each in examine_all(settings)}
    assert findings.keys() == ALWAYS
    assert [each for each in findings.values() if not each.ok and each.name != "versions"] == []


def test_what_is_set_is_checked(tmp_path: Path) -> None:
    def forbid(_: object, start: object) -> list[bytes]:
        start("403 Forbidden", [])  # type: ignore[operator]
        return [b""]

    with serving(forbid) as url:
        settings = make_settings(tmp_path, app_server_url=f"{url}/jobs", device="cpu")
        (finding,) = (each for each in examine_all(settings) if each.name == "APP_SERVER_URL")
    assert finding == Finding("APP_SERVER_URL", True, f"{url}/jobs answers (403).")


def test_one_wrong_check_is_not_well() -> None:
    said: list[str] = []
    assert report([Finding("a", True, "good.")], False, said.append)
    assert not report(
        [Finding("a", True, "good."), Finding("bc", False, "bad.")], False, said.append
    )
    assert said[1:] == ["ok     a   good.", "WRONG  bc  bad."]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("MODLE=yolov8n-seg", ".env sets MODLE, which is no setting: did you mean MODEL?"),
        ("API_PORT=no", "API_PORT: Input should be a valid integer"),
    ],
)
def test_settings_that_are_wrong_are_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{line}\n")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    (settings,) = (each for each in json.loads(done.output)["checks"] if each["name"] == "settings")
    assert (done.exit_code, settings["ok"]) == (1, False)
    assert told in settings["message"]
