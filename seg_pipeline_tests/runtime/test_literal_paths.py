"""A data folder may have any name that the file system takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seg_pipeline.runtime.dagster_storage import sqlite_engine
from seg_pipeline.runtime.literal_paths import sqlite_url
from seg_pipeline_tests.odd_names import ODD_NAMES

SAY_WHAT_IT_IS = """
import json
from dagster import DagsterInstance
from seg_pipeline.runtime import dagster_home, preparation
from seg_pipeline.settings import get_settings
dagster_home.make_dagster_home_ready(get_settings())
preparation.make_tables_ready(get_settings())
with DagsterInstance.get() as instance:
    instance.get_runs(limit=1)
    launcher = type(instance.run_launcher).__name__
    print(json.dumps([launcher, instance.telemetry_enabled, instance.root_directory]))
"""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_databases_url_names_its_file_whatever_the_folder_is_called(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with sqlite_engine(sqlite_url(str(folder), "runs")).begin() as connection:
        connection.exec_driver_sql("create table here (x)")
    assert (folder / "runs.db").is_file()
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_dagster_has_our_configuration_whatever_the_folder_is_called(tmp_path: Path) -> None:
    """Not its defaults: telemetry, and a process for each run."""
    name = "".join(ODD_NAMES)
    data = tmp_path / name / "data"
    done = subprocess.run(
        [sys.executable, "-c", SAY_WHAT_IT_IS], cwd=tmp_path,
        env={"DATA_DIR": str(data), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["WarmRunLauncher", False, str(data / "dagster")]
    assert {path.name for path in (data / "dagster").glob("*.db")} == {
        "event_log.db",
        "runs.db",
        "schedules.db",
    }
    assert [each.name for each in tmp_path.iterdir()] == [name]
