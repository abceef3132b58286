"""DAGSTER_HOME for a process that was started without one: the folder in DATA_DIR."""

import os
from pathlib import Path

from seg_pipeline.local.processes import write_dagster_home
from seg_pipeline.runtime.literal_paths import take_paths_literally
from seg_pipeline.settings import Settings


def make_dagster_home_ready(settings: Settings) -> Path:
    """The folder, which this process's environment names from now on.

    Raises FileNotFoundError if DAGSTER_HOME is set and has no dagster.yaml: Dagster would silently
    use its defaults, with which nothing works.
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
