"""The page at `/` in a browser: how tests open it and give it a picture."""

from typing import Any

from playwright.sync_api import FilePayload, Page, Route, expect

from seg_pipeline.errors import ModelFailed
from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import FakeWorker
from seg_pipeline_tests.builders import make_picture, picture_bytes

WIDE = 24
LARGE = "/".join("#" * 20 + "." * 4 for _ in range(16))
SMALL = "/".join("." * 4 + ("#" * 6 if 4 <= row < 10 else "." * 6) + "." * 14 for row in range(16))
PICTURE: FilePayload = {
    "name": "photo.png",
    "mimeType": "image/png",
    "buffer": picture_bytes(make_picture(WIDE, 16)),
}


def opened(page: Page, serve: Serve, path: str = "", **values: Any) -> str:
    """Opens the page of a served API, and gives its address."""
    url = str(serve(**values).base_url)
    page.goto(f"{url}/{path}")
    return url


def segment(page: Page) -> None:
    """Chooses a picture, and waits for its segments."""
    page.set_input_files("#file", PICTURE)
    page.wait_for_selector("body[data-view=done][data-masks]")


def see_a_job_fail(page: Page, serve: Serve, store: Store) -> None:
    """Opens the page, chooses a picture, and waits until it says how that failed."""
    with FakeWorker(store, error=ModelFailed("demo-yolo failed: no memory for it.")):
        opened(page, serve)
        page.set_input_files("#file", PICTURE)
        expect(page.locator("#code")).to_have_text("model_failed")


def job_shown(page: Page) -> str:
    """The uuid of the job that the page shows."""
    return page.url.partition("#")[2]


def held(page: Page, address: Any) -> list[Route]:
    """Requests to an address that wait for the test, as they come in."""
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    page.route(address, hold)
    return routes
