"""`Client` against a served API: from a picture to its masks, files and exports."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from seg_client import ApiError, Client, PictureUnreadable, Result, SegClientError, WaitTimeout
from seg_client.answers import JobAnswer
from seg_client.errors import (
    JobConflict,
    JobFinished,
    JobNotFound,
    NotAnImage,
    NotFailed,
    RateLimited,
    Unauthorized,
    UnknownModel,
    WeightsMissing,
)
from seg_pipeline.errors import WeightsMissing as MissingInWorker
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import bits, make_picture, picture_bytes
from seg_pipeline_tests.client.conftest import OTHER, Served


def test_a_picture_of_any_kind_comes_back_in_segments(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(picture_bytes())
    pictures: list[Any] = [path, str(path), picture_bytes(), Image.fromarray(make_picture())]
    for picture in (*pictures, make_picture(), make_picture()[..., 0]):
        result = client.segment(picture)
        assert [segment.area for segment in result.segments] == [4, 1]
        assert (result.status, result.model) == ("completed", "demo-yolo")


@pytest.mark.parametrize("rle", [True, False])
def test_masks_are_the_same_from_run_lengths_and_from_files(client: Client, rle: bool) -> None:
    result = client.segment(picture_bytes(), rle=rle)
    assert [segment.rle is not None for segment in result.segments] == [rle, rle]
    for segment, drawing in zip(result.segments, (DRAWING, OTHER), strict=True):
        mask = segment.mask()
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, bits(drawing))


def test_options_reach_the_service(client: Client) -> None:
    result = client.segment(
        picture_bytes(), resize=8, parameters={"confidence": 0.5}, model="demo-yolo", uuid="mine"
    )
    assert (result.uuid, result.resize, result.parameters) == ("mine", 8, {"confidence": 0.5})
    assert max(result.segments[0].crop().size) == 8


def test_a_failed_job_is_run_again(served: Served) -> None:
    client = served.start()
    job = client.submit(picture_bytes())
    with pytest.raises(NotFailed):
        job.retry()
    finish_job(served.store, job.uuid, error=MissingInWorker("demo-yolo has no weights."))
    job.retry()
    assert job.status() == "queued"
    served.work(DRAWING)
    assert len(job.wait().segments) == 1


def test_a_saved_result_is_files_and_its_answer(client: Client, tmp_path: Path) -> None:
    result = client.segment(picture_bytes())
    written = result.save(tmp_path / "new" / "folder")
    assert [path.name for path in written] == [
        *("original.webp", "overlay.webp", "mask_000.png", "crop_000.webp"),
        *("mask_001.png", "crop_001.webp", "result.json"),
    ]
    answer = json.loads(written[-1].read_text())
    assert JobAnswer.model_validate(answer).uuid == result.uuid
    with Image.open(written[2]) as mask:
        assert mask.size == (4, 4)


def test_one_segment_is_saved_alone(client: Client, tmp_path: Path) -> None:
    written = client.segment(picture_bytes()).segments[1].save(tmp_path)
    assert [path.name for path in written] == ["mask_001.png", "crop_001.webp"]


def test_the_coco_document_has_every_segment(client: Client) -> None:
    document = client.segment(picture_bytes()).to_coco()
    assert [each["area"] for each in document["annotations"]] == [4, 1]


def test_a_map_is_in_order_and_has_errors_in_their_places(client: Client) -> None:
    pictures = [picture_bytes(make_picture(seed=n)) for n in range(6)]
    found = list(client.map([*pictures, b"This is a text.", "nowhere.png"], parallel=3))
    kinds = [Result] * 6 + [NotAnImage, PictureUnreadable]
    assert [type(each) for each in found] == kinds


def test_a_submitted_job_is_waited_for_and_deleted(served: Served) -> None:
    client = served.start()
    job = client.submit(picture_bytes())
    assert job.status() == "queued"
    with pytest.raises(WaitTimeout, match=job.uuid):
        job.wait(timeout=0)
    finish_job(served.store, job.uuid, DRAWING)
    assert [segment.area for segment in client.job(job.uuid).wait(timeout=20).segments] == [4]
    assert job.delete()
    assert job.delete()
    with pytest.raises(JobNotFound):
        job.status()


def test_an_address_is_fetched_by_the_service(served: Served) -> None:
    job = served.start().submit("https://example.com/picture.png", resize=64, rle=True)
    assert job.status() == "queued"


def test_a_slow_picture_is_asked_for_until_it_is_there(served: Served) -> None:
    """The service answers 202 where it does not wait."""
    client = served.start(wait_seconds=0)
    served.work(DRAWING)
    assert len(client.segment(picture_bytes()).segments) == 1


def test_a_picture_in_which_nothing_is_found_has_no_segments(served: Served) -> None:
    client = served.start()
    served.work()
    result = client.segment(picture_bytes())
    assert (result.status, result.segments) == ("completed", ())


def test_what_a_job_failed_with_is_raised(served: Served) -> None:
    client = served.start()
    served.work(error=MissingInWorker("there are no weights."))
    with pytest.raises(WeightsMissing, match="no weights") as caught:
        client.segment(picture_bytes(), uuid="first")
    assert (caught.value.code, caught.value.status) == ("weights_missing", 503)
    assert caught.value.uuid == "first"
    with pytest.raises(WeightsMissing, match="no weights"):
        client.job("first").wait(20)


def test_a_refusal_has_its_sentence_its_code_and_its_status(client: Client) -> None:
    with pytest.raises(NotAnImage) as caught:
        client.segment(b"This is a text.")
    assert (caught.value.code, caught.value.status) == ("not_an_image", 400)
    assert caught.value.sentence == str(caught.value) != ""
    with pytest.raises(UnknownModel, match="sam9"):
        client.segment(picture_bytes(), model="sam9")


def test_another_request_under_a_known_uuid_is_a_conflict(client: Client) -> None:
    client.segment(picture_bytes(), uuid="taken")
    with pytest.raises(JobConflict):
        client.segment(picture_bytes(make_picture(seed=3)), uuid="taken")


def test_a_key_is_needed_where_keys_are_set(served: Served) -> None:
    client = served.start(api_keys="shop:secret-0123456789")
    with pytest.raises(Unauthorized):
        client.segment(picture_bytes())
    with Client(served.url, "secret-0123456789") as known:
        assert known.submit(picture_bytes()).status() == "queued"


def test_a_pause_that_is_longer_than_the_limit_is_not_waited_for(served: Served) -> None:
    served.start(api_keys="shop:secret-0123456789", api_rates="shop=1")
    with Client(served.url, "secret-0123456789", retry_seconds=1) as client:
        job = client.submit(picture_bytes())
        with pytest.raises(RateLimited):
            job.status()


class LosesAnswers(httpx.HTTPTransport):
    """Sends requests for real, and loses the answer of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        self.sent.append(request)
        if len(self.sent) == 1:
            answer.close()
            raise httpx.ReadError("the connection was lost")
        return answer


def test_a_lost_answer_never_doubles_the_job(served: Served) -> None:
    served.start()
    wire = LosesAnswers()
    with Client(served.url, transport=wire) as client:
        job = client.submit(picture_bytes())
    assert len(wire.sent) == 2
    listed = httpx.get(f"{served.url}/jobs").json()["jobs"]
    assert [each["uuid"] for each in listed] == [job.uuid]


def test_a_result_that_no_client_made_says_so(client: Client) -> None:
    read = Result.model_validate_json(client.segment(picture_bytes()).model_dump_json())
    with pytest.raises(SegClientError, match="client"):
        read.segments[0].crop()


def test_keys_that_are_newer_than_the_client_are_kept(client: Client) -> None:
    answer = client.segment(picture_bytes()).model_dump()
    newer = JobAnswer.model_validate({**answer, "depth_url": "http://localhost/depth.png"})
    assert newer.model_dump()["depth_url"] == "http://localhost/depth.png"


def test_a_job_is_cancelled_once_and_a_finished_one_is_not(served: Served) -> None:
    client = served.start()
    job, done = client.submit(picture_bytes()), client.submit(picture_bytes())
    assert job.cancel()
    assert job.cancel()
    with pytest.raises(ApiError, match="was cancelled"):
        job.wait(5)
    finish_job(served.store, done.uuid, DRAWING)
    with pytest.raises(JobFinished):
        done.cancel()
