"""Strangers' servers that hang, refuse, trickle and fail, beside uploads and good addresses, on a
running service."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.local.sample import BUNDLED, ask
from seg_pipeline_tests.running_stack import Stack
from seg_pipeline_tests.serving import hang, serving, trickle, wire_server

pytestmark = pytest.mark.slow

EACH = 20
"""Jobs on each kind of bad host: more than a host may have under way at once."""


def picture_or_failure(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A good picture, or 500."""
    is_good = environ["PATH_INFO"] == "/sample.jpg"
    start_response("200 OK" if is_good else "500 Internal Server Error", [])
    return [BUNDLED.read_bytes() if is_good else b""]


def send_address(stack: Stack, url: str) -> str:
    body = json.dumps({"image_url": url}).encode()
    answer = ask("POST", f"{stack.base_url}/jobs", body, {"content-type": "application/json"})
    assert answer.status == 202, answer
    return str(answer.body["uuid"])


def job(stack: Stack, uuid: str) -> Any:
    return ask("GET", f"{stack.base_url}/jobs/{uuid}").body


def test_bad_hosts_hold_up_nobody_and_their_jobs_fail_with_the_reason(tmp_path: Path) -> None:
    with ExitStack() as hosts:
        hanging = hosts.enter_context(wire_server(hang))
        trickling = hosts.enter_context(wire_server(trickle))
        good = hosts.enter_context(serving(picture_or_failure))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            refusing = f"http://127.0.0.1:{probe.getsockname()[1]}"
        settings = {"ALLOW_PRIVATE_URLS": "true", "FETCH_ATTEMPTS": "2", "FETCH_SECONDS": "6"}
        stack = hosts.enter_context(Stack(tmp_path, settings))
        stack.send_sample()
        bad = [
            send_address(stack, f"{url}/a.png")
            for url in (hanging, trickling, refusing, good)
            for _ in range(EACH)
        ]
        fetched = send_address(stack, f"{good}/sample.jpg?token=topsecret")
        assert stack.send_sample().found
        stack.wait_for(
            lambda: job(stack, fetched)["status"] == "completed", "a picture of a good host"
        )
        under_way = [uuid for uuid in bad if job(stack, uuid)["status"] == "queued"]
        assert len(under_way) > 2 * EACH, "nothing was slow, so nothing was shown"
        stack.restart("fetcher")
        stack.wait_for(
            lambda: all(job(stack, uuid)["status"] == "failed" for uuid in bad),
            "the end",
            seconds=240,
        )
        assert {job(stack, uuid)["error"]["code"] for uuid in bad} == {"fetch_unavailable"}
        logs = "".join(
            path.read_text(errors="replace") for path in (stack.data_dir / "logs").glob("*.log")
        )
        assert "topsecret" not in logs
