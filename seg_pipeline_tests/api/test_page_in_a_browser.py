"""The page at `/` as a person uses it, in a real browser with a real API; a stand-in works."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, Route, expect
from pycocotools import mask as coco

from seg_pipeline.errors import ModelFailed, NotAnImage
from seg_pipeline.imaging.masks import mask_to_rle
from seg_pipeline.jobs.progress import Progress
from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import FakeWorker, finish_job, finish_with
from seg_pipeline_tests.api.the_page import (
    LARGE,
    PICTURE,
    SMALL,
    WIDE,
    held,
    job_shown,
    opened,
    see_a_job_fail,
    segment,
)
from seg_pipeline_tests.builders import make_picture, make_segment
from seg_pipeline_tests.picture_files import heic

pytestmark = pytest.mark.process


def lit(page: Page, x: float, y: float) -> str:
    """The segment that lights up under a place of the picture, given as shares of its sides."""
    box = page.locator("#tint").bounding_box()
    assert box
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    option = page.locator(".option.lit")
    return str(option.get_attribute("id")) if option.count() else "none"


def test_a_picture_becomes_segments_that_light_up_under_the_pointer(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE, SMALL):
        opened(page, serve)
        segment(page)
    expect(page.locator("#found")).to_have_text("2 segments")
    assert lit(page, 0.7, 0.9) == "segment-0"
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-1", "the smaller lies on top"
    expect(page.locator("#chip")).to_have_text("disc 75 %")
    assert lit(page, 0.95, 0.5) == "none"
    expect(page.locator("#chip")).to_be_hidden()


def test_a_click_opens_the_segment_with_its_files(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE, SMALL):
        url = opened(page, serve)
        segment(page)
    box = page.locator("#tint").bounding_box()
    assert box
    page.mouse.click(box["x"] + 7 / WIDE * box["width"], box["y"] + 7 / 16 * box["height"])
    expect(page.locator("#list").get_by_role("option", selected=True)).to_have_id("segment-1")
    expect(page.locator("#selected-name")).to_have_text("disc")
    assert page.locator("#selected-image").evaluate("image => image.decode().then(() => true)")
    for link in ("#get-crop", "#get-mask"):
        href = page.locator(link).get_attribute("href")
        assert href
        assert href.startswith(f"{url}/assets/")
        assert page.request.get(href).ok


def test_links_that_have_ended_are_renewed(page: Page, serve: Serve, api_store: Store) -> None:
    """A page may be open for longer than its links hold."""
    page.clock.install()
    with FakeWorker(api_store, LARGE, SMALL):
        opened(page, serve, asset_link_secret="sesame", asset_link_seconds=600)
        segment(page)
    page.get_by_text("Downloads").click()
    page.clock.fast_forward(3_600_000)
    with page.expect_response("**/jobs/*") as asked, page.expect_download() as waiting:
        page.locator("#downloads a", has_text="Overlay").click()
    assert asked.value.json()["overlay_url"] == waiting.value.url


def test_a_picture_that_its_link_does_not_open_any_more_is_shown_by_a_new_one(
    page: Page, serve: Serve, api_store: Store
) -> None:
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=403) if len(refused) == 1 else route.continue_()

    page.route("**/crops/**", refuse_once)
    with FakeWorker(api_store, LARGE):
        opened(page, serve, asset_link_secret="sesame")
        segment(page)
    page.locator("#segment-0").click()
    expect(page.locator("#selected-image")).to_have_js_property("naturalWidth", 20)
    assert len(refused) > 1


def test_the_list_is_walked_by_keyboard_and_left_by_escape(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE, SMALL):
        opened(page, serve)
        segment(page)
    page.locator("#list").focus()
    selected = page.locator("#list").get_by_role("option", selected=True)
    for key, index in (("ArrowDown", 0), ("ArrowDown", 1), ("Home", 0), ("End", 1)):
        page.keyboard.press(key)
        expect(selected).to_have_id(f"segment-{index}")
    active = page.locator("#list").get_attribute("aria-activedescendant")
    assert active == selected.get_attribute("id")
    page.keyboard.press("Enter")
    expect(page.locator("#get-crop")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#selected")).to_be_hidden()


def test_run_lengths_are_read_as_pycocotools_writes_them(page: Page, serve: Serve) -> None:
    opened(page, serve)
    rng = np.random.default_rng(3)
    for width, height in ((1, 1), (7, 5), (300, 200)):
        full = rng.random((height, width)) < 0.3
        full[: height // 2, : width // 2] = True
        encoded = coco.encode(np.asfortranarray(full.astype(np.uint8)))
        text = {"size": [height, width], "counts": encoded["counts"].decode()}
        read = page.evaluate(
            "async rle => { const m = await import('/ui/masks.js');"
            " const [height, width] = rle.size, bbox = {x: 0, y: 0, width, height};"
            " const size = [width, height];"
            " return [...(await m.rasterOf({rle, bbox}, size, size)).covered]; }",
            text,
        )
        assert np.array_equal(np.array(read, dtype=bool).reshape(height, width), full)
    assert mask_to_rle(make_segment(SMALL).mask)["size"] == [16, WIDE]


def test_masks_are_read_from_their_files_where_a_job_has_no_run_lengths(
    page: Page, serve: Serve, api_store: Store
) -> None:
    client = serve()
    with FakeWorker(api_store, LARGE, SMALL):
        answer = client.post("/segment", content=PICTURE["buffer"]).json()
    page.goto(f"{client.base_url}/#{answer['uuid']}")
    page.wait_for_selector("body[data-masks]")
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-1"
    assert lit(page, 0.95, 0.5) == "none"


def test_a_picture_that_the_browser_cannot_show_appears_once_the_service_has_read_it(
    page: Page, serve: Serve, api_store: Store
) -> None:
    """A phone's HEIC: what is shown in the end is the service's own WEBP."""
    opened(page, serve)
    data = heic(Image.fromarray(make_picture(64, 64)))
    page.set_input_files("#file", {"name": "a.heic", "mimeType": "image/heic", "buffer": data})
    told = page.locator("#no-preview")
    expect(told).to_have_text(
        "This browser cannot show a.heic. It appears here once the service has read it."
    )
    with FakeWorker(api_store, LARGE):
        expect(page.locator("#found")).to_have_text("1 segment")
    expect(page.locator("#picture")).to_have_attribute("src", re.compile("/original.webp$"))
    expect(told).to_be_hidden()
    assert lit(page, 0.3, 0.5) == "segment-0"
    expect(page.locator("#recent-list img")).to_have_count(1)


def test_a_failed_job_says_why_and_can_be_tried_again(
    page: Page, serve: Serve, api_store: Store
) -> None:
    see_a_job_fail(page, serve, api_store)
    expect(page.locator("#reason")).to_have_text("Demo-yolo failed: no memory for it.")
    with FakeWorker(api_store, LARGE):
        page.locator("#again").click()
        expect(page.locator("#found")).to_have_text("1 segment")


def test_a_failed_job_that_is_looked_up_can_be_run_again(
    page: Page, serve: Serve, api_store: Store
) -> None:
    client = serve()
    with FakeWorker(api_store, error=ModelFailed("demo-yolo failed: no memory for it.")):
        client.post("/segment?uuid=mine", content=PICTURE["buffer"])
    page.goto(f"{client.base_url}/#mine")
    expect(page.locator("#code")).to_have_text("model_failed")
    with FakeWorker(api_store, LARGE):
        page.locator("#again").click()
        expect(page.locator("#found")).to_have_text("1 segment")


def test_a_label_is_left_out_and_what_lies_below_is_found(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve)
    with FakeWorker(api_store, LARGE, f"hole={SMALL}"):
        segment(page)
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-1"
    page.get_by_role("button", name="hole").click()
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-0"
    expect(page.locator("#segment-1")).to_be_hidden()
    page.locator("#list").press("End")
    expect(page.locator("#segment-0")).to_have_attribute("aria-selected", "true")
    page.locator("#list").press("Escape")
    page.get_by_role("button", name="hole").click()
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-1"


def test_the_picture_is_enlarged_and_moved_and_clicks_still_find_their_segment(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve)
    with FakeWorker(api_store, LARGE, SMALL):
        segment(page)
    place = page.locator("#view").bounding_box()
    assert place
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    for _ in range(4):
        page.mouse.wheel(0, -400)
    large = page.locator("#tint").bounding_box()
    assert large
    assert large["width"] > 3 * place["width"]
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.8, place["y"] + place["height"] / 2, steps=4)
    page.mouse.up()
    expect(page.locator("#selected")).to_be_hidden()
    moved = page.locator("#tint").bounding_box()
    assert moved
    assert moved["x"] > large["x"] + 50
    page.keyboard.press("0")
    expect(page.locator("#fit")).to_be_disabled()
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-1"
    page.keyboard.press("+")
    assert lit(page, 7 / WIDE, 7 / 16) == "segment-1"


def test_a_grey_mask_is_had_as_other_programs_read_it(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve)
    with FakeWorker(api_store, LARGE, SMALL):
        segment(page)
    page.locator("#segment-1").click()
    with page.expect_download() as waiting:
        page.locator("#get-grey").click()
    mask = np.asarray(Image.open(waiting.value.path()))
    assert (mask.shape, mask[7, 7], mask[0, 0]) == ((16, WIDE), 255, 0)


def test_a_refusal_is_shown_in_the_services_own_sentence(page: Page, serve: Serve) -> None:
    opened(page, serve)
    text: FilePayload = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    page.set_input_files("#file", text)
    expect(page.locator("#code")).to_have_text("not_an_image")
    expect(page.locator("#reason")).to_contain_text("The 10 bytes are no picture of a known format")


def test_the_key_is_asked_for_once_and_kept_by_the_tab(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        opened(page, serve, api_keys="s3cret")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("This service needs a key")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Go on").click()
        expect(dialog).to_contain_text("That key is not one of this service's.")
        page.get_by_label("API key").fill("s3cret")
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#model")).to_have_value("demo-yolo")
        segment(page)
    page.reload()
    expect(page.locator("#found")).to_have_text("1 segment")
    expect(dialog).to_be_hidden()
    page.get_by_text("The same from code").click()
    assert "s3cret" not in page.content()
    expect(page.locator("#snippet")).to_contain_text("x-api-key: $API_KEY")


def test_only_what_was_changed_is_sent(page: Page, serve: Serve, api_store: Store) -> None:
    with FakeWorker(api_store, LARGE):
        opened(page, serve)
        page.locator("#model").select_option("demo-sam2")
        page.locator("#options summary").click()
        page.get_by_label("Points per side").fill("8")
        expect(page.locator("#changed")).to_have_text("1 changed")
        segment(page)
        uuid = page.url.partition("#")[2]
        job = page.request.get(f"{page.url.partition('#')[0]}jobs/{uuid}").json()
    assert (job["model"], job["parameters"]) == ("demo-sam2", {"points_per_side": 8})
    page.get_by_text("The same from code").click()
    expect(page.locator("#snippet")).to_contain_text("""-F 'parameters={"points_per_side":8}'""")


def test_a_job_is_found_again_among_the_recent_ones_until_it_is_gone(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        url = opened(page, serve)
        segment(page)
    uuid = page.url.partition("#")[2]
    page.locator("#new").click()
    expect(page.get_by_role("heading", name="Drop a picture")).to_be_visible()
    page.get_by_role("button", name=re.compile("photo.png, demo-yolo, 1 segment")).click()
    expect(page.locator("#found")).to_have_text("1 segment")
    assert page.request.delete(f"{url}/jobs/{uuid}").ok
    page.reload()
    expect(page.locator("#notice")).to_have_text("That job has expired, or was deleted.")
    expect(page.locator("#recent")).to_be_hidden()


def test_what_was_opened_while_another_job_was_deleted_stays(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        opened(page, serve)
        segment(page)
        kept = job_shown(page)
        page.locator("#new").click()
        segment(page)
    page.on("dialog", lambda dialog: dialog.accept())
    deletions = held(page, f"**/jobs/{job_shown(page)}")
    page.locator("#delete").click()
    page.locator("#recent-list button").nth(1).click()
    page.wait_for_url(f"**/#{kept}")
    deletions[0].continue_()
    expect(page.locator("#recent-list button")).to_have_count(1)
    expect(page.locator("#found")).to_have_text("1 segment")
    assert job_shown(page) == kept


def ask_by_pointing(page: Page, serve: Serve, **values: Any) -> str:
    """Opens the page with a picture and a SAM-2 that masks what is pointed at."""
    url = opened(page, serve, **values)
    page.locator("#model").select_option("demo-sam2")
    page.get_by_label("Mask what I point at").check()
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#asked")).to_be_visible()
    page.wait_for_function("document.getElementById('picture').naturalWidth > 0")
    return url


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """A pixel of the picture on the screen."""
    box = page.locator("#marks").bounding_box()
    assert box
    return box["x"] + (x + 0.5) / WIDE * box["width"], box["y"] + (y + 0.5) / 16 * box["height"]


def asked(store: Store, uuid: str) -> dict[str, Any]:
    """The prompt of a job, as JSON has it."""
    job = JobRepository(store).job(uuid)
    parameters: dict[str, Any] = json.loads(json.dumps(job.parameters))
    return parameters


def test_clicks_make_a_mask_better_and_send_the_picture_once(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE):
        url = ask_by_pointing(page, serve)
        uploads: list[str] = []
        page.on(
            "request",
            lambda request: (
                uploads.append(request.headers.get("content-type", ""))
                if request.method == "POST"
                else None
            ),
        )
        page.mouse.click(*place(page, 7, 5))
        answers = page.locator("#asked-list li")
        expect(answers).to_have_text([re.compile(r"of the picture · model .* s · in all .* s")])
        first = job_shown(page)
        assert asked(api_store, first) == {"points": [[7, 5, 1]]}
        page.keyboard.down("Shift")
        page.mouse.click(*place(page, 20, 12))
        page.keyboard.up("Shift")
        expect(answers).to_have_count(2)
        expect(answers.nth(1)).to_contain_text("in all")
        second = job_shown(page)
        assert asked(api_store, second) == {"points": [[7, 5, 1], [20, 12, 0]]}
        page.get_by_role("button", name="Undo").click()
        expect(answers.nth(2)).to_contain_text("in all")
        assert asked(api_store, job_shown(page)) == {"points": [[7, 5, 1]]}
    assert [kind.partition(";")[0] for kind in uploads] == [
        "multipart/form-data",
        "application/json",
        "application/json",
    ]
    assert JobRepository(api_store).job(second).model == "demo-sam2"
    assert page.request.get(f"{url}/assets/{second}/original.webp").ok
    expect(page.locator("#found")).to_have_text("1 segment")


def test_a_box_is_dragged_and_the_toggle_sets_points_beside(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, SMALL):
        ask_by_pointing(page, serve)
        page.mouse.move(*place(page, 4, 3))
        page.mouse.down()
        page.mouse.move(*place(page, 12, 9), steps=4)
        page.mouse.up()
        answers = page.locator("#asked-list li")
        expect(answers.first).to_contain_text("in all")
        assert asked(api_store, job_shown(page)) == {"box": [4, 3, 13, 10]}
        page.get_by_role("button", name="Beside it").click()
        page.mouse.click(*place(page, 11, 8))
        expect(answers.nth(1)).to_contain_text("in all")
        assert asked(api_store, job_shown(page)) == {
            "points": [[11, 8, 0]],
            "box": [4, 3, 13, 10],
        }
    expect(page.locator("#marks b")).to_have_count(1)
    expect(page.locator("#marks i.beside")).to_have_count(1)


def test_the_keyboard_points_undoes_and_draws_a_box(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, SMALL):
        ask_by_pointing(page, serve)
        answers = page.locator("#asked-list li")
        page.locator("#marks").focus()
        page.keyboard.press("Enter")
        expect(answers.first).to_contain_text("in all")
        assert asked(api_store, job_shown(page)) == {"points": [[12, 8, 1]]}
        page.keyboard.press("Backspace")
        expect(page.locator("#result")).to_be_hidden()
        page.keyboard.press("b")
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("b")
        expect(answers.nth(1)).to_contain_text("in all")
        assert asked(api_store, job_shown(page)) == {"box": [12, 8, 17, 9]}


def test_a_finished_job_is_asked_further_and_shows_its_prompt_after_a_reload(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, LARGE, SMALL):
        opened(page, serve)
        page.locator("#model").select_option("demo-sam2")
        segment(page)
        first = job_shown(page)
        page.get_by_label("Mask what I point at").check()
        expect(page.locator("#result")).to_be_hidden()
        page.mouse.click(*place(page, 7, 5))
        expect(page.locator("#asked-list li")).to_contain_text("in all")
        second = job_shown(page)
        assert asked(api_store, second) == {"points": [[7, 5, 1]]}
        stored = JobRepository(api_store)
        assert stored.job(second).source_sha256 == stored.job(first).source_sha256
        page.reload()
        expect(page.locator("#marks i.on")).to_have_count(1)
        page.mouse.click(*place(page, 8, 5))
        expect(page.locator("#asked-list li")).to_contain_text("in all")
    assert asked(api_store, job_shown(page)) == {"points": [[7, 5, 1], [8, 5, 1]]}


def test_a_refused_prompt_is_a_line_and_the_next_one_goes_on(
    page: Page, serve: Serve, api_store: Store
) -> None:
    with FakeWorker(api_store, SMALL):
        ask_by_pointing(page, serve)
        answers = page.locator("#asked-list li")
        page.mouse.click(*place(page, 7, 5))
        expect(answers.first).to_contain_text("in all")
        JobRepository(api_store).removal.delete(job_shown(page))
        page.mouse.click(*place(page, 8, 5))
        expect(answers.nth(1)).to_contain_text("in all")
    with FakeWorker(api_store, error=ModelFailed("demo-sam2 failed: no memory for it.")):
        page.mouse.click(*place(page, 9, 5))
        expect(answers.nth(2)).to_have_text("Demo-sam2 failed: no memory for it.")


def test_named_masks_are_shown_by_name_with_what_they_lie_in(
    page: Page, serve: Serve, api_store: Store
) -> None:
    client = serve()
    uuid = client.post("/jobs", files={"a": ("a.png", PICTURE["buffer"])}).json()["uuid"]
    large = replace(make_segment(LARGE), label="dog", name="dog 1")
    small = replace(make_segment(SMALL), label=None, confidence=None, parent=large)
    finish_with(api_store, uuid, large, small)
    page.goto(f"{client.base_url}/#{uuid}")
    page.wait_for_selector("body[data-masks]")
    expect(page.locator("#segment-0 b")).to_have_text("dog 1")
    expect(page.locator("#segment-1 b")).to_have_text("Segment 2")
    page.locator("#segment-1").click()
    expect(page.locator("#selected-facts")).to_contain_text("Lies indog 1")


def test_a_model_without_prompts_has_no_points(page: Page, serve: Serve) -> None:
    opened(page, serve)
    expect(page.locator("#asking-row")).to_be_hidden()
    page.locator("#model").select_option("demo-sam2")
    expect(page.locator("#asking-row")).to_be_visible()


def test_the_page_tells_how_many_points_are_done_and_shows_the_end(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve)
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#headline")).to_have_text("Waiting for a worker")
    uuid = page.url.partition("#")[2]
    progress = Progress("segments", datetime.now(UTC), 2, 4)
    api_store.put(keys.progress(uuid), write(progress))
    expect(page.locator("#headline")).to_have_text("Segmenting")
    expect(page.locator("#subline")).to_contain_text("2 of 4 points")
    finish_job(api_store, uuid, LARGE)
    expect(page.locator("body")).to_have_attribute("data-view", "done")


def test_a_job_that_is_opened_shows_its_own_model_while_it_runs(page: Page, serve: Serve) -> None:
    opened(page, serve)
    page.set_input_files("#file", PICTURE)
    expect(page.locator("#headline")).to_have_text("Waiting for a worker")
    page.locator("#model").select_option("demo-sam2")
    page.reload()
    expect(page.locator("#subline")).to_have_text("demo-yolo")
    expect(page.locator("#model")).to_have_value("demo-sam2")


def test_a_page_that_may_not_listen_asks_instead(
    page: Page, serve: Serve, api_store: Store
) -> None:
    opened(page, serve, max_listeners=0)
    with FakeWorker(api_store, LARGE):
        page.set_input_files("#file", PICTURE)
        expect(page.locator("body")).to_have_attribute("data-view", "done")


def test_a_batch_shows_how_far_it_is_and_what_failed(
    page: Page, serve: Serve, api_store: Store
) -> None:
    client = serve()
    addresses = [f"https://pictures.example/{number}.png" for number in range(3)]
    client.post("/batches", json={"uuid": "summer", "image_urls": addresses})
    page.goto(f"{client.base_url}/#batch=summer")
    expect(page.locator("#batch-line")).to_have_text("processing: 0 of 3 pictures")
    expect(page.locator("#batch-coco")).to_be_hidden()
    repository = JobRepository(api_store)
    repository.batch_work.advance(10, datetime.now(UTC))
    finish_job(api_store, "batch-summer-000001", error=NotAnImage("This is a text."))
    for index in (0, 2):
        finish_job(api_store, f"batch-summer-{index:06d}", SMALL)
    repository.batch_work.advance(10, datetime.now(UTC))
    expect(page.locator("#batch-line")).to_have_text("completed: 3 of 3 pictures")
    expect(page.locator("#batch-failed li")).to_have_text(f"{addresses[1]} This is a text.")
    expect(page.locator("#batch-cancel")).to_be_hidden()
    with page.expect_download() as download:
        page.click("#batch-coco")
    assert download.value.suggested_filename == "summer.coco.json"
    page.click("#batch-failed a")
    expect(page.locator("#reason")).to_contain_text("This is a text.")
    expect(page.locator("#batch")).to_be_hidden()


def test_a_batch_is_cancelled_from_the_page(page: Page, serve: Serve, api_store: Store) -> None:
    client = serve()
    urls = ["https://pictures.example/1.png"]
    client.post("/batches", json={"uuid": "summer", "image_urls": urls})
    page.goto(f"{client.base_url}/#batch=summer")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#batch-cancel")
    page.wait_for_timeout(200)
    JobRepository(api_store).batch_work.advance(10, datetime.now(UTC))
    expect(page.locator("#batch-line")).to_have_text("cancelled: 1 of 1 picture")


def test_a_batch_that_is_not_there_is_said(page: Page, serve: Serve) -> None:
    opened(page, serve, "#batch=winter")
    expect(page.locator("#notice")).to_contain_text("Batch winter does not exist")
