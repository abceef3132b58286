"""`make demo-queue`, as its user sees it."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_job_goes_from_the_queue_to_the_app_server() -> None:
    command = [sys.executable, "scripts/demo_queue.py"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PATCH /api/v1/re-imagine/auto-mask/abc123 (x-api-key: the app server's key)" in done.stdout
    assert '"status": "completed"' in done.stdout
    assert done.stderr == ""
