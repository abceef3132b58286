"""Kill anything, cancel anything, run anything again: on the whole service, through its own
doors."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from seg_pipeline.jobs.heartbeats import WorkerHeartbeat, all_upkeep, all_workers
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline.store import keys, open_store
from seg_pipeline_tests.builders import saved
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

PICTURES = 16
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}


@pytest.fixture(scope="module")
def large_picture() -> bytes:
    """A picture that takes a while to decode and to encode, so that a run can be caught in the
    middle."""
    with Image.open(BUNDLED) as sample:
        return saved(sample.convert("RGB").resize((2400, 1800)), "JPEG", quality=80)


def runs(stack: Stack, **tags: str) -> list[dict[str, Any]]:
    """Runs with these tags, the newest first."""
    query = """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 50) {
        ... on Runs { results { runId status tags { key value } } } } }"""
    filters = {
        "tags": [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
    }
    runs: list[dict[str, Any]] = stack.graphql(query, filter=filters)["runsOrError"]["results"]
    return runs


def wait_for_end(stack: Stack, run_id: str) -> str:
    """The status in which a run ends."""
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

    seen: list[str] = []

    def has_ended() -> bool:
        seen.append(stack.graphql(query, id=run_id)["runOrError"]["status"])
        return seen[-1] in FINISHED

    stack.wait_for(has_ended, "end of the run")
    return seen[-1]


def cancel(stack: Stack, run_id: str) -> bool:
    """Cancels a run; whether Dagster took that. It refuses while the run is starting."""
    query = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
    taken: str = stack.graphql(query, id=run_id)["terminateRun"]["__typename"]
    return taken == "TerminateRunSuccess"


def post(
    stack: Stack,
    picture: bytes,
    uuid: str,
    model: str = "demo-yolo",
    wait: bool = True,
    **options: str,
) -> httpx.Response:
    """Sends a picture."""
    url, asked = f"{stack.base_url}/segment", {"uuid": uuid, "model": model, **options}
    headers = {} if wait else {"prefer": "respond-async"}
    return httpx.post(url, content=picture, params=asked, headers=headers, timeout=90)


def queue(
    stack: Stack, picture: bytes, uuid: str, model: str = "demo-yolo", **options: str
) -> None:
    """Sends a picture without waiting for its answer."""
    assert post(stack, picture, uuid, model, wait=False, **options).status_code == 202


def job(stack: Stack, uuid: str) -> dict[str, Any]:
    """The job as a client sees it."""
    job: dict[str, Any] = httpx.get(f"{stack.base_url}/jobs/{uuid}", timeout=30).json()
    return job


def statuses(stack: Stack, uuids: list[str]) -> set[str]:
    return {job(stack, uuid)["status"] for uuid in uuids}


def heartbeats(stack: Stack) -> list[WorkerHeartbeat]:
    """What the workers say that they do."""
    return all_workers(open_store(make_settings(stack.folder)))


def wait_until_a_batch_is_processed(stack: Stack, uuids: list[str], at_least: int = 2) -> str:
    """Until a worker is in the middle of a run over so many of the jobs; the run's id."""
    found: list[str] = []

    def several() -> bool:
        found[:] = [
            heartbeat.run_id or ""
            for heartbeat in heartbeats(stack)
            if len(set(heartbeat.uuids) & set(uuids)) >= at_least
        ]
        return bool(found)

    stack.wait_for(several, "run over a batch")
    return found[0]


def worker_processes(stack: Stack) -> list[psutil.Process]:
    """The worker and the child that executes its runs."""
    worker = psutil.Process(stack.pid("worker"))
    return [worker, *worker.children(recursive=True)]


def kill_worker(stack: Stack) -> None:
    for process in worker_processes(stack):
        process.kill()


def kill_executing_child(stack: Stack) -> None:
    worker_processes(stack)[-1].kill()


def kill_daemon(stack: Stack) -> None:
    stack.kill("daemon")


def kill_code_server(stack: Stack) -> None:
    stack.kill("code-server")


@pytest.mark.parametrize("kill", [kill_worker, kill_executing_child, kill_daemon, kill_code_server])
def test_every_picture_of_a_batch_is_completed_after_a_kill(
    stack: Stack, large_picture: bytes, kill: Callable[[Stack], None]
) -> None:
    """Nothing is lost and nobody helps; the issue allows 60 s from the return of what was
    killed."""
    uuids = [f"{kill.__name__}-{index}".replace("_", "-") for index in range(PICTURES)]
    for uuid in uuids:
        queue(stack, large_picture, uuid)
    wait_until_a_batch_is_processed(stack, uuids)
    kill(stack)
    stack.wait_for(stack.is_ready, "return of what was killed")
    stack.wait_for(
        lambda: statuses(stack, uuids) == {"completed"}, "completion of every picture", seconds=120
    )


def test_a_worker_whose_child_is_killed_while_it_waits_for_work_goes_on(stack: Stack) -> None:
    """The dead child had the lock on the pipe that work comes through."""
    stack.wait_for(lambda: all(heartbeat.run_id is None for heartbeat in heartbeats(stack)), "rest")
    kill_executing_child(stack)
    stack.wait_for(stack.is_ready, "return of the child")
    assert post(stack, BUNDLED.read_bytes(), "after-a-quiet-death").status_code == 200


def test_a_cancelled_run_ends_as_cancelled_and_its_jobs_say_so(stack: Stack) -> None:
    """Its pictures take some seconds each, and a worker notices within a heartbeat."""
    uuids = [f"cancel-{index}" for index in range(PICTURES)]
    for uuid in uuids:
        queue(stack, BUNDLED.read_bytes(), uuid, "demo-sam2", parameters='{"points_per_side": 24}')
    run_id = wait_until_a_batch_is_processed(stack, uuids, at_least=PICTURES // 4)
    stack.wait_for(lambda: cancel(stack, run_id), "cancellation")
    assert wait_for_end(stack, run_id) == "CANCELED"
    stack.wait_for(lambda: statuses(stack, uuids) <= {"completed", "failed"}, "end of every job")
    failed = [document for uuid in uuids if (document := job(stack, uuid))["status"] == "failed"]
    assert failed
    assert {document["error"]["code"] for document in failed} == {"cancelled"}


@pytest.fixture(scope="module")
def finished(stack: Stack) -> str:
    """A job that is completed, however much was left before it."""
    post(stack, BUNDLED.read_bytes(), "finished")
    stack.wait_for(lambda: job(stack, "finished")["status"] == "completed", "completion")
    return "finished"


def files(stack: Stack, uuid: str) -> dict[str, bytes]:
    folder = stack.data_dir / "assets" / uuid
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.*")
        if path.suffix != ".json"
    }


@pytest.mark.parametrize(
    "assets", [("source_image", "segments", "cutouts", "result"), ("segments",), ("cutouts",)]
)
def test_an_operator_materialises_a_partition_again_and_gets_the_same_files(
    stack: Stack, finished: str, assets: tuple[str, ...]
) -> None:
    before = files(stack, finished)
    assert wait_for_end(stack, stack.launch("segment_images", None, assets, finished)) == "SUCCESS"
    assert files(stack, finished) == before


def reexecute(stack: Stack, run_id: str, strategy: str) -> str:
    query = """mutation($parameters: ReexecutionParams!) {
        launchRunReexecution(reexecutionParams: $parameters) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    parameters = {"parentRunId": run_id, "strategy": strategy}
    launched = stack.graphql(query, parameters=parameters)["launchRunReexecution"]
    return str(launched["run"]["runId"])


def test_a_bad_picture_fails_alone_with_its_reason_and_can_be_mended_and_run_on(
    stack: Stack, finished: str
) -> None:
    """The operator's whole way: a failed run, its reason, the picture mended, "re-execute from
    failure"."""
    answer = post(stack, BUNDLED.read_bytes()[:4000], "bad")
    assert (answer.status_code, answer.json()["code"]) == (400, "truncated_image")
    (failed,) = runs(stack, dagster__partition="bad")
    assert wait_for_end(stack, failed["runId"]) == "FAILURE"
    (stack.data_dir / "assets" / "bad" / "source.jpg").write_bytes(BUNDLED.read_bytes())
    assert wait_for_end(stack, reexecute(stack, failed["runId"], "FROM_FAILURE")) == "SUCCESS"
    assert job(stack, "bad")["status"] == "completed"
    assert len(job(stack, "bad")["segments"]) == len(job(stack, finished)["segments"])


def test_a_bad_picture_does_not_stop_the_others_of_its_batch(
    stack: Stack, large_picture: bytes
) -> None:
    uuids = [f"mixed-{index}" for index in range(PICTURES)]
    for uuid in uuids:
        queue(stack, large_picture[:-5000] if uuid == "mixed-7" else large_picture, uuid)
    others = [uuid for uuid in uuids if uuid != "mixed-7"]
    stack.wait_for(lambda: statuses(stack, others) == {"completed"}, "completion of the good ones")
    stack.wait_for(lambda: job(stack, "mixed-7")["status"] == "failed", "failure of the bad one")
    assert job(stack, "mixed-7")["error"]["code"] == "truncated_image"
    (failed,) = runs(stack, dagster__partition="mixed-7")
    assert wait_for_end(stack, failed["runId"]) == "FAILURE"


def test_an_operator_can_try_a_prune_without_removing_anything(stack: Stack, finished: str) -> None:
    assert wait_for_end(stack, stack.launch_prune()) == "SUCCESS"
    assert job(stack, finished)["status"] == "completed"


def test_a_prune_whose_process_is_killed_does_not_stay_in_progress(stack: Stack) -> None:
    """No worker has it, so that no worker's heartbeat tells. The first is there before it runs."""
    run_id = stack.launch_prune()
    store = open_store(make_settings(stack.folder))
    stack.wait_for(lambda: store.head(keys.upkeep(run_id)) is not None, "its first heartbeat")
    (heartbeat,) = all_upkeep(store)
    os.kill(heartbeat.pid, signal.SIGKILL)
    assert wait_for_end(stack, run_id) == "FAILURE"


def test_a_worker_that_is_told_to_stop_finishes_its_run_first(
    stack: Stack, large_picture: bytes
) -> None:
    uuids = [f"stop-{index}" for index in range(8)]
    for uuid in uuids:
        queue(stack, large_picture, uuid)
    in_hand = wait_until_a_batch_is_processed(stack, uuids)
    os.kill(stack.pid("worker"), signal.SIGTERM)
    assert wait_for_end(stack, in_hand) == "SUCCESS"
    stack.wait_for(lambda: statuses(stack, uuids) == {"completed"}, "completion of every picture")


def test_pictures_of_every_kind_are_answered(stack: Stack, tmp_path: Path) -> None:
    """CMYK, 16 bit, palette, alpha and EXIF rotation are handled; none of them stops the worker."""
    with Image.open(BUNDLED) as sample:
        rgb = sample.convert("RGB").resize((480, 360))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16)) * 257)
    pictures = {
        "cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "sixteen-bit": saved(grey, "PNG"),
        "palette": saved(rgb.quantize(64), "PNG"),
        "alpha": saved(rgb.convert("RGBA"), "PNG"),
        "exif": saved(rgb, "JPEG", exif=exif),
    }
    for uuid, picture in pictures.items():
        post(stack, picture, uuid)
        assert job(stack, uuid)["status"] == "completed", uuid
    assert (job(stack, "exif")["width"], job(stack, "exif")["height"]) == (360, 480)


def test_in_the_end_nothing_waits(stack: Stack) -> None:
    """After all of the above: no marker is left in the inbox or in flight.

    A name that begins with a dot is half a file of a killed process, which the prune removes.
    """
    markers = stack.data_dir / "state"
    stack.wait_for(
        lambda: not any((*markers.glob("inbox/[!.]*"), *markers.glob("inflight/[!.]*"))), "rest"
    )
    time.sleep(0.5)
    assert stack.is_ready()
