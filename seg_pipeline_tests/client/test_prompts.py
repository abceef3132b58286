"""A picture that is asked about more than once, against a served API."""

from typing import Any

import httpx
import numpy as np
import pytest

from seg_client import AsyncClient, Client, PictureUnreadable
from seg_client.errors import InvalidPrompt, PictureNotKept, PromptOutside
from seg_client.options import as_json
from seg_pipeline.store import keys
from seg_pipeline_tests.api.stand_ins import DRAWING
from seg_pipeline_tests.builders import make_picture, picture_bytes
from seg_pipeline_tests.client.conftest import InALoop, Served

PICTURE = picture_bytes(make_picture(32, 24))


def test_prompts_go_among_the_parameters_as_plain_numbers() -> None:
    array: Any = np.array
    fields = as_json(
        {
            "points": [(1, 2), array([3, 4, 0])],
            "box": array([0.5, 0, 9, 9]),
            "parameters": {"mask_threshold": 0.5},
        }
    )
    assert fields["parameters"] == {
        "mask_threshold": 0.5,
        "points": [[1, 2], [3, 4, 0]],
        "box": [0.5, 0, 9, 9],
    }


def test_a_prompt_reaches_the_service(client: Client) -> None:
    result = client.segment(PICTURE, model="demo-sam2", points=[(20, 10), (3, 4, 0)])
    assert result.parameters == {"points": [[20, 10, 1], [3, 4, 0]]}
    assert client.segment(
        PICTURE, model="demo-sam2", boxes=[(0, 0, 9, 9)], multimask=True
    ).parameters == {"boxes": [[0, 0, 9, 9]], "multimask": 1}


def test_what_cannot_be_asked_is_an_error_of_its_own(client: Client) -> None:
    with pytest.raises(InvalidPrompt, match="takes no prompts"):
        client.segment(PICTURE, model="demo-yolo", points=[(1, 1)])
    with pytest.raises(PromptOutside, match="lies outside the picture"):
        client.segment(PICTURE, model="demo-sam2", points=[(99, 99)])


def test_a_session_sends_its_picture_once(client: Client, service: str) -> None:
    sent: list[int] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(len(request.content))
            return super().handle_request(request)

    with Client(service, timeout=20, transport=Counting()) as counted:
        session = counted.session(PICTURE, model="demo-sam2")
        results = [session.segment(points=[(x, 3)]) for x in (1, 2, 3)]
    assert sent == [len(PICTURE), 0, 0]
    assert [result.parameters for result in results] == [{"points": [[x, 3, 1]]} for x in (1, 2, 3)]
    assert len({result.uuid for result in results}) == 3


def test_a_session_sends_its_picture_again_where_the_service_has_it_no_more(served: Served) -> None:
    client = served.start()
    served.work(DRAWING)
    session = client.session(PICTURE, model="demo-sam2")
    first = session.segment(points=[(1, 1)])
    client.job(first.uuid).delete()
    second = session.segment(points=[(2, 2)])
    assert served.store.get(keys.source(second.uuid, "png")) == PICTURE


def test_a_picture_of_another_job_may_be_named(client: Client) -> None:
    first = client.segment(PICTURE, model="demo-sam2", points=[(1, 1)])
    again = client.segment(None, image_of=first.uuid, model="demo-sam2", box=(0, 0, 9, 9))
    assert again.parameters == {"box": [0, 0, 9, 9]}
    with pytest.raises(PictureNotKept):
        client.segment(None, image_of="nobody")


def test_a_picture_that_is_none_is_unreadable(client: Client) -> None:
    wrong: Any = {}
    with pytest.raises(PictureUnreadable):
        client.segment(wrong)


def test_a_session_may_be_awaited(service: str, in_a_loop: InALoop) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(service, timeout=20) as client:
            session = client.session(PICTURE, model="demo-sam2")
            return [(await session.segment(points=[(x, 3)])).parameters for x in (1, 2)]

    assert in_a_loop(ask) == [{"points": [[x, 3, 1]]} for x in (1, 2)]
