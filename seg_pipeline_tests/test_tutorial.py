"""What the tutorial tells people to type works in its order, and prints what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seg_pipeline_tests.running_stack import Stack

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```sh\n(.*?)```(?:\n\n```json\n(.*?)```)?", TUTORIAL, flags=re.DOTALL)
"""The commands of each block, and what they print where the tutorial shows it."""

OF_THE_FOLDER = ["make run\n", "rm -r data\nmake clean\n"]
"""Would start another service here, or remove this environment. `.ci/run` runs the first."""


def run(commands: str, folder: Path) -> str:
    """What the commands print; all must succeed."""
    silent = commands.replace("curl ", "curl --silent --show-error --max-time 60 ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", silent],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{silent}\n{done.stdout[:2000]}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that has of the repository what the tutorial names."""
    (tmp_path / "seg_pipeline").symlink_to(ROOT / "seg_pipeline")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_of_the_tutorial_does_what_it_says(stack: Stack, clone: Path) -> None:
    printed: dict[str, str] = {}
    for commands, shown in STEPS:
        if commands not in OF_THE_FOLDER:
            here = commands.replace("localhost:8000", stack.base_url.removeprefix("http://"))
            printed[commands] = run(here, clone)
            assert shown.strip() in printed[commands], commands
    _, found, job, _, read, client, _, failed, _ = printed.values()
    segment_id, label, area = found.splitlines()[0].split()
    assert segment_id == "0"
    assert '"status":"completed"' in job
    assert read.splitlines()[-1] == f"{label} {area} pixels"
    assert client.startswith(f"{label} (")
    assert failed.count('"broken"') == 2
    assert {path.name for path in clone.iterdir()} == {"seg_pipeline", ".venv"}


def test_what_is_not_run_stands_in_the_tutorial() -> None:
    assert [commands for commands, _ in STEPS if commands in OF_THE_FOLDER] == OF_THE_FOLDER
