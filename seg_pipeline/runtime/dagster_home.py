"""Dagster's folder for a process that was started without DAGSTER_HOME: the one in DATA_DIR, as
`make run` has it."""

import os
from pathlib import Path

from seg_pipeline.local.processes import write_dagster_home
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.settings import Settings


def make_dagster_home_ready(settings: Settings) -> Path:
    """The folder, named in this process's environment from now on.

    Raises FileNotFoundError with a sentence if DAGSTER_HOME is set and has no dagster.yaml: Dagster
    would take its defaults, with which nothing works, and say nothing.
    """
    if not os.environ.get("DAGSTER_HOME"):
        os.environ["DAGSTER_HOME"] = str(write_dagster_home(settings))
    take_paths_literally()
    home = Path(os.environ["DAGSTER_HOME"])
    if not (home / "dagster.yaml").is_file():
        raise FileNotFoundError(
            f"DAGSTER_HOME {home} has no dagster.yaml; unset it, or copy the project's dagster.yaml"
            " there."
        )
    return home
