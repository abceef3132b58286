"""`make demo-queue`, as its user sees it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_job_goes_from_the_queue_to_the_app_server_and_can_be_looked_at_until_control_c() -> None:
    command = [sys.executable, "scripts/demo_queue.py", "--stay"]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        shown = ""
        for line in demo.stdout:
            shown += line
            if line.startswith("Ctrl-C"):
                break
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 0, shown + errors
    assert "PATCH /api/v1/re-imagine/auto-mask/abc123 (x-api-key: the app server's key)" in shown
    assert '"status": "completed"' in shown
    assert "/assets/callback?partition=abc123" in shown
    assert errors == ""
