"""The page at `/` for those who use a keyboard, a screen reader or a phone, light or dark."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from seg_pipeline.errors import ModelFailed
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import FakeWorker, finish_job
from seg_pipeline_tests.api.the_page import LARGE, PICTURE, SMALL, opened, see_a_job_fail

pytestmark = pytest.mark.process

LAPTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}

HEARD = """
() => {
  window.heard = [];
  const said = document.getElementById("announcement");
  new MutationObserver(() => window.heard.push(said.textContent)).observe(said, {childList: true});
}
"""
"""Writes down what a screen reader is told."""


@pytest.fixture(params=["laptop", "phone"])
def device(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"laptop": LAPTOP, "phone": PHONE}[request.param]


@pytest.fixture(params=["light", "dark"])
def seen(request: pytest.FixtureRequest, browser: Browser, device: Any) -> Iterator[Page]:
    """A tab on each device, light and dark; it must not be wider than the screen."""
    context = browser.new_context(color_scheme=request.param, **device)
    page = context.new_page()
    page.set_default_timeout(20_000)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing: roles, names, order of headings, contrast, and what else it knows."""
    found = Axe().run(page).response["violations"]
    assert [
        f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]
    ] == []  # fmt: skip


def test_no_state_of_the_page_breaks_a_rule_of_axe(
    seen: Page, serve: Serve, api_store: Store
) -> None:
    opened(seen, serve)
    expect(seen.locator("#model")).to_have_value("demo-yolo")
    assert_accessible(seen)
    seen.set_input_files("#file", PICTURE)
    expect(seen.locator("#headline")).to_have_text("Waiting for a worker")
    assert_accessible(seen)
    finish_job(api_store, seen.url.partition("#")[2], LARGE, SMALL)
    seen.wait_for_selector("body[data-view=done][data-masks]")
    seen.locator(".option").first.click()
    for summary in seen.locator("aside summary:visible").all():
        summary.click()
    assert_accessible(seen)


def test_neither_a_failure_nor_pointing_nor_the_question_for_a_key_breaks_one(
    page: Page, serve: Serve, api_store: Store
) -> None:
    see_a_job_fail(page, serve, api_store)
    assert_accessible(page)
    page.locator("#new").click()
    page.locator("#model").select_option("demo-sam2")
    page.get_by_label("Mask what I point at").check()
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#asked")).to_be_visible()
    assert_accessible(page)


def test_the_question_for_a_key_breaks_none(page: Page, serve: Serve) -> None:
    opened(page, serve, api_keys="s3cret")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_accessible(page)


def test_a_screen_reader_hears_each_stage_and_the_result(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve)
    page.evaluate(HEARD)
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#headline")).to_have_text("Waiting for a worker")
    uuid = page.url.partition("#")[2]
    api_store.put(keys.progress(uuid), write(Progress("segments", datetime.now(UTC), 2, 4)))
    expect(page.locator("#headline")).to_have_text("Segmenting")
    finish_job(api_store, uuid, LARGE, SMALL)
    page.wait_for_selector("body[data-view=done]")
    *stages, end = page.evaluate("window.heard")
    assert stages == ["Sending", "Waiting for a worker", "Segmenting"]
    assert end.startswith("Done: 2 segments in ")


def test_a_screen_reader_hears_why_it_failed(page: Page, serve: Serve, api_store: Store) -> None:
    opened(page, serve)
    with FakeWorker(api_store, error=ModelFailed("demo-yolo failed: no memory for it.")):
        page.set_input_files("#file", PICTURE)
        said = page.get_by_role("status")
        expect(said).to_have_text("It failed: demo-yolo failed: no memory for it.")


def tab_to(page: Page, focused: str, most: int = 40) -> None:
    """Presses Tab until the element has the focus."""
    for _ in range(most):
        if page.evaluate("document.activeElement.id") == focused:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not lead to #{focused}")


def test_the_keyboard_alone_leads_from_a_picture_to_its_files(
    page: Page, serve: Serve, api_store: Store
) -> None:
    """Nobody who chose a picture by keyboard starts again at the top of the page."""
    with FakeWorker(api_store, LARGE, SMALL):
        opened(page, serve)
        expect(page.locator("#model")).to_have_value("demo-yolo")
        with page.expect_file_chooser() as chooser:  # the browser asks us from here on
            tab_to(page, "file")
            page.keyboard.press("Enter")
        chooser.value.set_files([PICTURE])
        page.wait_for_selector("body[data-view=done][data-masks]")
    assert page.evaluate("document.activeElement.id") == "stage"
    tab_to(page, "list", most=8)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#get-crop")).to_be_focused()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith("-0.webp")
    page.keyboard.press("Escape")
    expect(page.locator("#selected")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "list"
    tab_to(page, "delete")


def test_the_address_is_typed_and_sent_by_keyboard(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve)
    tab_to(page, "url")
    page.keyboard.type("https://pictures.example/cat.jpg")
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text("Waiting for a worker")
    assert page.evaluate("document.activeElement.id") == "stage"
    tab_to(page, "cancel", most=12)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Drop a picture")).to_be_visible()


def test_a_phone_is_asked_for_a_photograph(
    browser: Browser, serve: Serve, api_store: Store
) -> None:
    context = browser.new_context(**PHONE)
    page = context.new_page()
    opened(page, serve)
    expect(page.get_by_role("heading", name="Take or choose a picture")).to_be_visible()
    expect(page.get_by_text("Take a photograph")).to_be_visible()
    camera = page.locator("#camera")
    assert camera.get_attribute("capture") == "environment"
    with FakeWorker(api_store, LARGE):
        camera.set_input_files(PICTURE)
        expect(page.locator("#found")).to_have_text("1 segment")
    context.close()
