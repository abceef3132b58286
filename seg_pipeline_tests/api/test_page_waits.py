"""The page while a picture is on its way, and while the service is away or asks for patience."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import FakeWorker
from seg_pipeline_tests.api.the_page import LARGE, PICTURE, held, job_shown, opened, segment

pytestmark = pytest.mark.process

UPLOADS = re.compile("/jobs$")
"""Where pictures are sent to."""

AWAY = re.compile(r"The service does not answer.*\. Trying again until it answers\.")


def limited_once(error: str) -> Callable[[Route], None]:
    """Refuses a first request, and asks to wait a second; all others go on."""
    refused: list[Route] = []

    def answer(route: Route) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route)
        body = json.dumps({"error": error, "code": "rate_limited"})
        route.fulfill(status=429, headers={"retry-after": "1"}, body=body)

    return answer


def sending(page: Page, serve: Serve, picture: FilePayload = PICTURE) -> list[Route]:
    """Opens the page and chooses a picture, which waits on its way for the test."""
    opened(page, serve)
    expect(page.locator("#model")).to_have_value("demo-yolo")
    uploads = held(page, UPLOADS)
    page.set_input_files("#file", picture)
    expect(page.locator("#headline")).to_have_text("Sending")
    return uploads


def jobs_of_everybody(page: Page, url: str) -> list[Any]:
    jobs: list[Any] = page.request.get(f"{url}/jobs").json()["jobs"]
    return jobs


def drop(page: Page, *names: str) -> None:
    """Drops files onto the page."""
    page.evaluate(
        """names => {
            const dataTransfer = new DataTransfer();
            for (const name of names) dataTransfer.items.add(new File(["text"], name));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        list(names),
    )


def test_a_picture_may_be_chosen_before_the_models_are_known(
    page: Page, serve: Serve, api_store: Store
) -> None:
    """It is shown, and goes to the model of last time."""
    with FakeWorker(api_store, LARGE):
        opened(page, serve)
        page.locator("#model").select_option("demo-sam2")
        models = held(page, "**/models")
        page.reload()
        page.set_input_files("#file", PICTURE)
        expect(page.locator("#headline")).to_have_text("Waiting for the service")
        page.wait_for_function("document.getElementById('picture').naturalWidth > 0")
        models[0].continue_()
        expect(page.locator("#found")).to_have_text("1 segment")
    assert JobRepository(api_store).job(job_shown(page)).model == "demo-sam2"


def test_a_picture_that_waits_for_the_models_is_not_sent_once_it_is_cancelled(
    page: Page, serve: Serve
) -> None:
    models = held(page, "**/models")
    url = opened(page, serve)
    page.set_input_files("#file", PICTURE)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Drop a picture")).to_be_visible()
    models[0].continue_()
    expect(page.locator("#model")).to_have_value("demo-yolo")
    expect(page.get_by_role("heading", name="Drop a picture")).to_be_visible()
    assert not jobs_of_everybody(page, url)


def test_a_service_that_is_away_is_waited_for(page: Page, serve: Serve, api_store: Store) -> None:
    with FakeWorker(api_store, LARGE):
        opened(page, serve)
        expect(page.locator("#model")).to_have_value("demo-yolo")
        page.context.set_offline(True)
        page.set_input_files("#file", PICTURE)
        expect(page.locator("#notice")).to_have_text(AWAY)
        page.context.set_offline(False)
        expect(page.locator("#found")).to_have_text("1 segment")
    expect(page.locator("#notice")).to_be_hidden()


def test_that_the_service_is_away_is_still_said_when_another_job_is_opened(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        opened(page, serve)
        segment(page)
        page.locator("#new").click()
        page.context.set_offline(True)
        page.set_input_files("#file", PICTURE)
        expect(page.locator("#notice")).to_have_text(AWAY)
        page.locator("#recent-list button").nth(1).click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#notice")).to_have_text(AWAY)
        page.context.set_offline(False)
        expect(page.locator("#found")).to_have_text("1 segment")


def test_a_rate_limit_is_waited_for_and_said(page: Page, serve: Serve, api_store: Store) -> None:
    with FakeWorker(api_store, LARGE):
        opened(page, serve)
        page.route(UPLOADS, limited_once("key shop has used up its requests."))
        page.set_input_files("#file", PICTURE)
        expect(page.locator("#notice")).to_contain_text("has used up its requests. Trying again in")
        expect(page.locator("#found")).to_have_text("1 segment")


def test_what_is_cancelled_while_it_waits_for_its_turn_is_never_sent(
    page: Page, serve: Serve
) -> None:
    url = opened(page, serve)
    page.route(UPLOADS, limited_once("key shop has used up its requests."))
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#notice")).to_contain_text("Trying again in")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Drop a picture")).to_be_visible()
    page.wait_for_timeout(1500)
    assert not jobs_of_everybody(page, url)


def test_an_upload_goes_on_while_the_page_shows_another_picture(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        uploads = sending(page, serve)
        first = job_shown(page)
        page.locator("#new").click()
        page.set_input_files("#file", PICTURE)
        page.wait_for_function(
            "first => location.hash.length > 1 && location.hash.slice(1) !== first", arg=first
        )
        uploads[1].continue_()
        expect(page.locator("#found")).to_have_text("1 segment")
        uploads[0].continue_()
        page.go_back()
        page.go_back()
        expect(page.locator("#found")).to_have_text("1 segment")
    assert job_shown(page) == first
    expect(page.locator("#recent-list button")).to_have_count(2)


def test_whoever_comes_back_to_an_upload_sees_it_go_on(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        uploads = sending(page, serve)
        page.locator("#new").click()
        page.locator("#recent-list button").click()
        expect(page.locator("#headline")).to_have_text("Sending")
        uploads[0].continue_()
        expect(page.locator("#found")).to_have_text("1 segment")


def test_a_refusal_of_an_upload_is_said_while_the_page_shows_another_picture(
    page: Page, serve: Serve
) -> None:
    uploads = sending(page, serve, {**PICTURE, "buffer": b"no picture"})
    page.locator("#new").click()
    uploads[0].continue_()
    expect(page.locator("#notice")).to_contain_text("photo.png: The 10 bytes are no picture")
    expect(page.locator("#recent")).to_be_hidden()
    expect(page.get_by_role("heading", name="Drop a picture")).to_be_visible()


def test_a_job_that_may_not_be_cancelled_is_followed_on(
    page: Page, serve: Serve, api_store: Store
) -> None:
    """The app server waits for it."""
    opened(page, serve)
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#headline")).to_have_text("Waiting for a worker")
    uuid = job_shown(page)
    deletions = held(page, f"**/jobs/{uuid}")
    page.get_by_role("button", name="Cancel").click()
    body = json.dumps({"error": "the app server waits for it.", "code": "job_in_progress"})
    deletions[0].fulfill(status=409, body=body)
    expect(page.locator("#notice")).to_have_text("The app server waits for it.")
    page.unroute(f"**/jobs/{uuid}")
    with FakeWorker(api_store, LARGE):
        expect(page.locator("#found")).to_have_text("1 segment")


def test_of_several_files_one_is_taken_and_the_page_says_so(page: Page, serve: Serve) -> None:
    opened(page, serve)
    drop(page, "beach.jpg", "forest.jpg")
    expect(page.locator("#notice")).to_contain_text("Only beach.jpg was taken, of 2 files.")
    expect(page.locator("#code")).to_have_text("not_an_image")


def test_a_batch_is_followed_through_limits_and_while_the_service_is_away(
    page: Page, serve: Serve, api_store: Store
) -> None:
    client = serve()
    urls = ["https://pictures.example/1.png"]
    client.post("/batches", json={"uuid": "summer", "image_urls": urls})
    page.route("**/batches/summer", limited_once("too many requests."))
    page.goto(f"{client.base_url}/#batch=summer")
    expect(page.locator("#notice")).to_contain_text("Too many requests. Trying again in 1 s.")
    expect(page.locator("#batch-line")).to_have_text("processing: 0 of 1 picture")
    page.context.set_offline(True)
    expect(page.locator("#notice")).to_have_text(AWAY)
    page.context.set_offline(False)
    expect(page.locator("#notice")).to_be_hidden()
    assert client.delete("/batches/summer").is_success
    JobRepository(api_store).batch_work.advance(10, datetime.now(UTC))
    expect(page.locator("#batch-line")).to_have_text("cancelled: 1 of 1 picture")
