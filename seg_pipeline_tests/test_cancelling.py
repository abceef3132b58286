"""Jobs that are cancelled by the API while the whole service works on them, on each profile."""

import json
from typing import Any
from uuid import uuid4

import pytest

from seg_pipeline.local.sample import BUNDLED, ask
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

LONG = {"points_per_side": 40, "crop_n_layers": 1, "pred_iou_thresh": 0}
"""8,000 points: it takes many times as long as a worker takes to notice a cancel."""


def test_a_job_stops_while_the_model_works_on_it_and_the_next_one_is_served(stack: Stack) -> None:
    uuid = _send_long_job(stack)
    stack.wait_for(lambda: _job(stack, uuid)["status"] == "processing", "a worker at work")
    answer = ask("POST", f"{stack.base_url}/jobs/{uuid}/cancel")
    assert (answer.status, answer.body["status"]) == (202, "processing")
    _wait_until_failed(stack, uuid)
    assert _job(stack, uuid)["error"]["code"] == "cancelled"
    again = ask("POST", f"{stack.base_url}/jobs/{uuid}/cancel")
    assert (again.status, again.body["error"]["code"]) == (200, "cancelled")
    stack.send_sample()


def test_jobs_behind_it_are_cancelled_before_a_worker_has_them(stack: Stack) -> None:
    ahead, *behind = [_send_long_job(stack) for _ in range(6)]
    last = ask("POST", f"{stack.base_url}/jobs/{behind[-1]}/cancel")
    assert (last.status, last.body["error"]["code"]) == (200, "cancelled")
    for uuid in (*behind[:-1], ahead):
        ask("POST", f"{stack.base_url}/jobs/{uuid}/cancel")
    for uuid in (ahead, *behind):
        _wait_until_failed(stack, uuid)
        assert _job(stack, uuid)["error"]["code"] == "cancelled"
    stack.send_sample()


def _send_long_job(stack: Stack) -> str:
    uuid = uuid4().hex
    parameters = json.dumps(LONG).replace(" ", "").replace('"', "%22")
    path = f"/segment?uuid={uuid}&model=demo-sam2&parameters={parameters}"
    headers = {"prefer": "respond-async", "content-type": "application/octet-stream"}
    assert ask("POST", f"{stack.base_url}{path}", BUNDLED.read_bytes(), headers).status == 202
    return uuid


def _wait_until_failed(stack: Stack, uuid: str) -> None:
    stack.wait_for(lambda: _job(stack, uuid)["status"] == "failed", "its end")


def _job(stack: Stack, uuid: str) -> dict[str, Any]:
    body: dict[str, Any] = ask("GET", f"{stack.base_url}/jobs/{uuid}").body
    return body
