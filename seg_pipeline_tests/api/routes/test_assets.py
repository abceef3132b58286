"""`/assets`: a finished job's published files, and nothing else."""

import re
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from seg_pipeline.imaging.images import FORMATS
from seg_pipeline.store import Store, keys, open_store
from seg_pipeline_tests.api.serving import Serve, api_settings, serving
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import picture_bytes

PICTURE = picture_bytes()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an API with one finished job, `mine`, that is kept for an hour."""
    settings = api_settings(tmp_path_factory.mktemp("assets"))
    store = open_store(settings)
    with serving(settings, store) as url, httpx.Client(base_url=url) as client:
        finished_job(client, store, "mine")
        yield client


def finished_job(client: httpx.Client, store: Store, uuid: str) -> None:
    client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": uuid})
    finish_job(store, uuid, DRAWING)


def test_every_file_that_the_answer_names_is_served_with_its_type(client: httpx.Client) -> None:
    answer = client.get("/jobs/mine").json()
    segment = answer["segments"][0]
    types = [
        client.get(url).headers["content-type"] for url in (*answer["urls"], answer["overlay_url"])
    ]
    assert set(types) == {"image/webp"}
    assert segment["crop_url"] == answer["urls"][1]
    mask = client.get(segment["mask_url"])
    assert mask.headers["content-type"] == "image/png"
    assert mask.content.startswith(b"\x89PNG")
    assert mask.headers["content-length"] == str(len(mask.content))


def test_a_file_is_cached_by_the_asker_no_longer_than_it_is_kept(client: httpx.Client) -> None:
    response = client.get("/assets/mine/original.webp")
    scope, max_age = response.headers["cache-control"].split(", max-age=")
    assert scope == "private"
    assert 0 <= int(max_age) <= 3600
    assert response.headers["x-content-type-options"] == "nosniff"
    assert datetime.strptime(response.headers["last-modified"], "%a, %d %b %Y %H:%M:%S GMT")


def test_a_file_that_the_client_has_is_not_sent_again(client: httpx.Client) -> None:
    etag = client.get("/assets/mine/original.webp").headers["etag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        response = client.get("/assets/mine/original.webp", headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (
            304,
            b"",
            etag,
        )
    assert (
        client.get("/assets/mine/original.webp", headers={"If-None-Match": '"x"'}).status_code
        == 200
    )


def test_head_says_what_get_would_without_the_bytes(client: httpx.Client) -> None:
    got, headed = (
        client.get("/assets/mine/original.webp"),
        client.head("/assets/mine/original.webp"),
    )
    assert headed.status_code == 200
    assert headed.content == b""
    for name in ("content-length", "content-type", "etag", "last-modified"):
        assert headed.headers[name] == got.headers[name]


def test_the_source_comes_back_as_a_download_that_cannot_run(client: httpx.Client) -> None:
    """It is whatever somebody sent: a browser must not take it for a page of ours."""
    response = client.get("/assets/mine/source.png")
    assert response.content == PICTURE
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == "attachment"
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("extension", FORMATS.values())
def test_a_source_of_every_format_is_served_with_its_type(
    serve: Serve, api_store: Store, extension: str
) -> None:
    client = serve()
    finished_job(client, api_store, "job")
    api_store.put(keys.source("job", extension), b"as it came")
    response = client.get(f"/assets/job/source.{extension}")
    assert response.headers["content-type"] == keys.content_type(f"source.{extension}")
    assert response.headers["content-type"].startswith("image/")


@pytest.mark.parametrize(
    "path",
    [
        *("mine", "mine/", "mine/crops", "mine/crops/", "mine/mask_images/", "", "/"),
        *(
            "mine/request.json",
            "mine/result.json",
            "mine/segments.json",
            "mine/source.json",
            "mine/delivery.json",
        ),
        *(
            "mine/original.webp/",
            "mine//original.webp",
            "mine/./original.webp",
            "mine/original.webp%00",
            "mine/ORIGINAL.webp",
        ),
        *(
            "mine/../mine/original.webp",
            "mine/%2e%2e/mine/original.webp",
            "mine/..%2fmine/original.webp",
        ),
        *(
            "../state/inbox/mine",
            "%2e%2e/state/inbox/mine",
            "..%2f..%2fetc%2fpasswd",
            "mine%2f..%2fmine/original.webp",
        ),
        *(
            "mine/..%5coriginal.webp",
            "mine%5coriginal.webp",
            "%2fetc%2fpasswd",
            "/etc/passwd",
            "mine/%252e%252e/x",
        ),
        *(
            "mine/crops/..%2foriginal.webp",
            "mine/mask_images/mask_%D9%A0%D9%A0%D9%A0.png",
            "mine/mask_images/mask_999.png",
        ),
        *(
            "other/original.webp",
            "a.b/original.webp",
            f"{'a' * 65}/original.webp",
            "mine/source.svg",
            "mine/source.html",
        ),
    ],
)
def test_there_is_no_listing_and_no_other_way_to_any_file(client: httpx.Client, path: str) -> None:
    """Sent as it is over a bare socket: a polite client would tidy the path."""
    status, body = raw_get(client, f"/assets/{path}")
    assert status == 404
    assert b'"error"' in body
    assert b"root:" not in body


def test_a_link_in_the_folder_is_not_followed(
    serve: Serve, api_store: Store, tmp_path: Path
) -> None:
    client = serve()
    finished_job(client, api_store, "mine")
    (tmp_path / "secret").write_text("secret")
    planted = tmp_path / "data/assets/mine/overlay.webp"
    planted.unlink()
    planted.symlink_to(tmp_path / "secret")
    assert client.get("/assets/mine/overlay.webp").status_code == 404


def test_nothing_is_served_until_the_job_has_finished(serve: Serve, api_store: Store) -> None:
    """The files of a half-finished job are there, its result is not."""
    client = serve()
    client.post("/jobs", files={"image": ("a.png", PICTURE)}, data={"uuid": "half"})
    api_store.put(keys.original("half"), PICTURE)
    assert client.get("/assets/half/original.webp").status_code == 404
    assert client.get("/assets/half/source.png").status_code == 404


def raw_get(client: httpx.Client, path: str) -> tuple[int, bytes]:
    """Status and body of a GET whose path nobody normalised."""
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=10
    ) as connection:
        connection.sendall(
            b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


@pytest.fixture
def signed(serve: Serve, api_store: Store) -> httpx.Client:
    """An API that signs its links, with a finished job `mine`."""
    client = serve(asset_link_secret="secret", api_keys="shop:key", wait_seconds=0)
    client.post(
        "/segment", params={"uuid": "mine"}, content=picture_bytes(), headers={"x-api-key": "key"}
    )
    finish_job(api_store, "mine", DRAWING)
    return client


def test_every_link_of_an_answer_is_signed_and_opens_its_file(signed: httpx.Client) -> None:
    answer = signed.get("/jobs/mine", headers={"x-api-key": "key"})
    urls = re.findall(r'"(http://[^"]+)"', answer.text)
    assert len(urls) == 5
    for url in urls:
        assert "&signature=" in url
        assert signed.get(url).status_code == signed.head(url).status_code == 200


def test_without_a_signature_or_a_key_files_are_closed(signed: httpx.Client) -> None:
    link = signed.get("/jobs/mine", headers={"x-api-key": "key"}).json()["overlay_url"]
    path = "/assets/mine/overlay.webp"
    assert signed.get(path, headers={"x-api-key": "key"}).status_code == 200
    assert signed.get(link.replace("overlay", "original")).status_code == 403
    for refused in (
        path,
        f"{path}?expires=9999999999&signature=00",
        link[:-1],
        "/assets/other/overlay.webp",
    ):
        for method in ("GET", "HEAD"):
            assert signed.request(method, refused).status_code == 403
    assert signed.get(path).json()["code"] == "link_refused"
    assert signed.get(path, headers={"x-api-key": "other"}).status_code == 403


def test_without_keys_a_signature_alone_opens(serve: Serve, api_store: Store) -> None:
    client = serve(asset_link_secret="secret", wait_seconds=0)
    client.post("/segment", params={"uuid": "mine"}, content=picture_bytes())
    finish_job(api_store, "mine", DRAWING)
    assert client.get("/assets/mine/overlay.webp").status_code == 403
    assert client.get(client.get("/jobs/mine").json()["overlay_url"]).status_code == 200
