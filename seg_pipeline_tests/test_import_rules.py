"""The table of who may import whom is enforced: each of its rules stops a line that breaks it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

ORCHESTRATION = "defs and runtime alone know Dagster and Celery"
MODELS = "segmenters alone know model libraries"
WEB = "api alone knows its web framework"
SERVING = "api and the operator's UI alone are served by uvicorn"
OUTSIDE = "adapters, store, weights and the client alone reach outside"
API = "api reaches no model and no orchestration, not even through others"
IMAGING = "domain, errors and imaging need nothing but libraries of the field"
EXPORTS = "exports need records and imaging alone"
SEGMENTERS = "segmenters know no orchestration and no web framework"
STORE = "store and jobs know no model, no orchestration and no web framework"
ADAPTERS = "adapters know no model, no orchestration and no web framework"
PIPELINE = "pipeline knows no orchestration and no web framework"
LOCAL = "local loads nothing that the processes load"
CLIENT = "the client and the service know nothing of each other"
API_CLIENT = "api knows nothing of its client, nor the client of it"


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and the rules, to be broken."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in ("api", "seg_pipeline"):
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.pt", "*.jpg"),
        )
    shutil.copytree(ROOT / "client" / "src" / "seg_client", folder / "seg_client")
    return folder


def broken_contracts(folder: Path) -> list[str]:
    """The names of the contracts that do not hold there."""
    command = [str(BIN / "lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return [
        line.removesuffix(" BROKEN")
        for line in done.stdout.splitlines()
        if line.endswith(" BROKEN")
    ]


def complaints(file_name: str, code: str) -> list[str]:
    """The rules that ruff names for this code, if it stood in that file."""
    command = [
        str(BIN / "ruff"),
        "check",
        "--select",
        "TID",
        "--output-format",
        "concise",
        "--stdin-filename",
        file_name,
        "-",
    ]
    done = subprocess.run(
        command, cwd=ROOT, input=code, capture_output=True, text=True, check=False
    )
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith(file_name)]


def test_the_rules_hold(copied: Path) -> None:
    assert broken_contracts(copied) == []


@pytest.mark.parametrize(
    ("file_name", "line", "contracts"),
    [
        (
            "seg_pipeline/jobs/repository.py",
            "import dagster",
            {ORCHESTRATION, API, STORE, ADAPTERS, PIPELINE},
        ),
        (
            "seg_pipeline/segmenters/warm.py",
            "from celery import Celery",
            {ORCHESTRATION, SEGMENTERS, PIPELINE},
        ),
        ("seg_pipeline/pipeline/stages.py", "import torch", {MODELS}),
        ("seg_pipeline/pipeline/stages.py", "from seg_pipeline.defs import partitions", {PIPELINE}),
        ("seg_pipeline/defs/assets.py", "def late():\n    from ultralytics import YOLO", {MODELS}),
        ("seg_pipeline/defs/sensors.py", "from fastapi import FastAPI", {WEB}),
        ("seg_pipeline/runtime/worker.py", "import uvicorn", {SERVING}),
        ("seg_pipeline/jobs/records.py", "import boto3", {OUTSIDE}),
        (
            "seg_pipeline/adapters/alert_webhook.py",
            "from seg_pipeline.segmenters import registry",
            {ADAPTERS},
        ),
        ("api/views.py", "from seg_pipeline.segmenters import registry", {API}),
        ("api/views.py", "def late():\n    import seg_pipeline.definitions", {API}),
        (
            "seg_pipeline/imaging/masks.py",
            "from seg_pipeline.settings import get_settings",
            {IMAGING, EXPORTS},
        ),
        (
            "seg_pipeline/exports/coco.py",
            "from seg_pipeline.jobs import records",
            {EXPORTS},
        ),
        (
            "seg_pipeline/local/stack.py",
            "from seg_pipeline.segmenters.weights import locate",
            {LOCAL},
        ),
        ("seg_client/answers.py", "from seg_pipeline.errors import Fault", {CLIENT}),
        ("api/links.py", "from seg_client import Client", {API_CLIENT}),
    ],
)
def test_a_line_that_breaks_a_rule_is_named(
    copied: Path, file_name: str, line: str, contracts: set[str]
) -> None:
    path = copied / file_name
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    try:
        assert set(broken_contracts(copied)) == contracts
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.environ['A']",
        "import os\nos.getenv('A')",
        "from os import environ",
        "from os import getenv",
    ],
)
def test_only_the_settings_read_the_environment(code: str) -> None:
    assert complaints("seg_pipeline/imaging/images.py", code) == ["TID251"]
    assert complaints("api/app.py", code) == ["TID251"]
    assert complaints("seg_pipeline/defs/sensors.py", code) == ["TID251"]


def test_torch_is_imported_where_it_is_used_and_not_before() -> None:
    assert complaints("seg_pipeline/pipeline/stages.py", "import torch") == ["TID253"]
    assert complaints("seg_pipeline/pipeline/stages.py", "def late():\n    import torch") == []
    assert complaints("seg_pipeline/segmenters/yolo/segmenter.py", "import torch") == []
