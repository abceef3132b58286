"""`POST /segment`: the first seed's service, with everything that can be sent to it."""

from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker
from seg_pipeline_tests.builders import picture_bytes

PICTURE = picture_bytes()


def test_a_raw_picture_is_answered_with_the_original_first_and_a_cut_out_a_segment(
    serve: Serve, api_store: Store
) -> None:
    """`curl --data-binary` calls the body a form, and still it is a picture."""
    client = serve()
    with FakeWorker(api_store, DRAWING, "#.../..../..../...."):
        response = client.post(
            "/segment", content=PICTURE, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
    answer = response.json()
    assert response.status_code == 200
    assert list(answer)[:1] == ["uuid"]
    assert answer["file_names"][0] == f"{answer['uuid']}/original.webp"
    assert answer["urls"] == [
        f"{client.base_url}assets/{name}".replace("//assets", "/assets") for name in answer["file_names"]
    ]
    assert len(answer["file_names"]) == 3
    for url in answer["urls"]:
        assert client.get(url).headers["content-type"] == "image/webp"
