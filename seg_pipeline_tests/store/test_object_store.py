"""What only a bucket can get wrong: credentials, addresses, other servers' habits, the price of a
listing."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.wrappers import Request, Response

from seg_pipeline.errors import StoreFull, StoreUnavailable
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, object_store, open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.serving import HOLDING, Talk, serving, wire_server

KEY = "assets/job-1/original.webp"


def bucket(url: str, **values: Any) -> Store:
    """A store in a bucket of the server at the URL."""
    keys = {"s3_access_key": "test-key", "s3_secret_key": "test-secret"}
    return open_store(
        Settings(
            _env_file=None, **{"s3_bucket": "bucket", "s3_endpoint_url": url, **keys, **values}
        )
    )


class Recorder:
    """A server that gives one answer to everything, and remembers what it was asked."""

    def __init__(
        self, status: int = 200, body: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self.requests: list[Request] = []
        self._answer = Response(body, status, headers={"ETag": '"1"', **(headers or {})})

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.requests.append(Request(environ, populate_request=False))
        return self._answer(environ, start_response)


def client(settings: Settings) -> Any:
    """The bucket as another program sees it."""
    keys = {
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "region_name": settings.aws_region,
    }
    return boto3.client("s3", endpoint_url=settings.s3_endpoint_url, **keys)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("original.webp", "image/webp"),
        ("mask_images/mask_000.png", "image/png"),
        ("result.json", "application/json"),
        ("source.JPG", "image/jpeg"),
        ("source.jpeg", "image/jpeg"),
        ("source.tiff", "image/tiff"),
        ("source.avif", "image/avif"),
        ("source.heic", "image/heic"),
        ("source.jxl", "image/jxl"),
        ("source.html", "application/octet-stream"),
        ("noextension", "application/octet-stream"),
    ],
)
def test_objects_have_the_content_type_of_their_name(
    bucket_settings: Settings, name: str, content_type: str
) -> None:
    """Clients load them from the bucket, which says what was said to it."""
    open_store(bucket_settings).put(f"assets/job-1/{name}", b"1")
    head = client(bucket_settings).head_object(
        Bucket=bucket_settings.s3_bucket, Key=f"assets/job-1/{name}"
    )
    assert head["ContentType"] == content_type


def test_names_and_urls_are_the_buckets(bucket_settings: Settings) -> None:
    store = open_store(bucket_settings)
    assert store.file_name(KEY) == KEY
    url = f"{bucket_settings.s3_endpoint_url}/{bucket_settings.s3_bucket}/{KEY}"
    assert store.url(KEY, "http://localhost:8000") == url


def test_without_an_endpoint_urls_are_aws_own() -> None:
    store = bucket("https://unused", s3_endpoint_url=None, aws_region="eu-west-1")
    assert (
        store.url(KEY, "http://localhost:8000")
        == f"https://s3.eu-west-1.amazonaws.com/bucket/{KEY}"
    )


def test_a_slash_behind_the_endpoint_does_no_harm(bucket_settings: Settings) -> None:
    store = open_store(
        bucket_settings.model_copy(
            update={"s3_endpoint_url": f"{bucket_settings.s3_endpoint_url}/"}
        )
    )
    store.put(KEY, b"1")
    assert store.get(KEY) == b"1"
    assert store.url(KEY, "").count("//") == 1


def test_a_large_upload_is_one_request_and_leaves_no_parts_behind(
    bucket_settings: Settings,
) -> None:
    open_store(bucket_settings).put(KEY, bytes(12_000_000))
    s3 = client(bucket_settings)
    assert s3.head_object(Bucket=bucket_settings.s3_bucket, Key=KEY)["ContentLength"] == 12_000_000
    assert (
        "-" not in s3.head_object(Bucket=bucket_settings.s3_bucket, Key=KEY)["ETag"]
    )  # as of a multipart upload
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket_settings.s3_bucket)


def test_strangers_objects_are_left_out_of_listings(bucket_settings: Settings) -> None:
    """A console makes an object `inbox/` when somebody "creates a folder"."""
    store, s3 = open_store(bucket_settings), client(bucket_settings)
    for key in ("inbox/", "inbox/a b", "inbox/.hidden", "inbox/ü"):
        s3.put_object(Bucket=bucket_settings.s3_bucket, Key=key, Body=b"")
    store.put("inbox/job-1", b"")
    assert [info.key for info in store.list("inbox/")] == ["inbox/job-1"]
    assert [info.key for info in store.list("inbox/", limit=1)] == ["inbox/job-1"]


def test_a_missing_bucket_is_a_broken_store_and_no_missing_object(
    bucket_settings: Settings,
) -> None:
    store = open_store(bucket_settings.model_copy(update={"s3_bucket": "no-such-bucket"}))
    calls: list[Callable[[], Any]] = [
        lambda: store.get(KEY), lambda: store.stream(KEY), lambda: store.put(KEY, b""),
        lambda: store.create(KEY, b""),
        lambda: store.list("assets/"), lambda: store.list_folders("assets/"),
        lambda: store.delete(KEY), store.check,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()


def test_a_server_that_is_away_is_told_in_one_line() -> None:
    with serving(Recorder()) as url:
        pass
    with pytest.raises(StoreUnavailable) as caught:
        bucket(url).get(KEY)
    assert "\n" not in str(caught.value)
    assert caught.value.permanent is False


@pytest.mark.parametrize("hold", HOLDING)
def test_a_server_that_holds_us_is_left(hold: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and sensors' ticks wait for it; what counts is the whole request, not the time
    between two bytes."""
    monkeypatch.setattr(object_store, "REQUEST_SECONDS", 0.15)
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 0.15)
    with wire_server(hold) as address:
        store = bucket(address)
        for call in (lambda: store.get("assets/a/result.json"), lambda: store.list("inbox/")):
            with pytest.raises(StoreUnavailable):
                call()


def test_a_call_of_the_bucket_leaves_a_tick_time_to_say_so() -> None:
    """Dagster cuts a tick off after a minute; ours raises before, and the tick says why."""
    assert object_store.RETRY_SECONDS + object_store.REQUEST_SECONDS < 60


def test_a_refusal_names_no_secret() -> None:
    with serving(Recorder(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>")) as url:
        for call in (
            bucket(url).check,
            lambda: bucket(url).get(KEY),
            lambda: bucket(url).list("assets/"),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                call()
            assert "test-secret" not in str(caught.value)
            assert "test-key" not in str(caught.value)


def test_a_full_server_is_a_full_store() -> None:
    body = "<Error><Code>XMinioStorageFull</Code></Error>"
    with serving(Recorder(507, body)) as url, pytest.raises(StoreFull):
        bucket(url).put(KEY, b"1")


def test_a_server_that_ignores_if_none_match_fails_the_check() -> None:
    """On such a server two different jobs could share a uuid."""
    moto = DomainDispatcherApplication(create_backend_app)

    def forgetful(environ: dict[str, Any], start_response: Any) -> Any:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return moto(environ, start_response)

    with serving(forgetful) as url:
        settings = Settings(_env_file=None, s3_bucket="forgetful", s3_endpoint_url=url)
        client(settings).create_bucket(Bucket="forgetful")
        with pytest.raises(StoreUnavailable, match="If-None-Match"):
            bucket(url, s3_bucket="forgetful").check()


def test_http_is_spoken_only_when_the_endpoint_says_so() -> None:
    """With an https endpoint, nothing goes over the wire in the clear."""
    recorder = Recorder()
    with serving(recorder) as url, pytest.raises(StoreUnavailable):
        bucket(url.replace("http://", "https://")).check()
    assert recorder.requests == []


def test_the_settings_keys_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session token or an endpoint that belongs to other credentials must not be mixed in."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environments-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environments-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "environments-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    recorder = Recorder()
    with serving(recorder) as url:
        bucket(url).put(KEY, b"1")
    (request,) = recorder.requests
    assert "Credential=test-key/" in request.headers["Authorization"]
    assert "X-Amz-Security-Token" not in request.headers
    assert request.path == f"/bucket/{KEY}"


def test_without_keys_boto3s_chain_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "credentials").write_text(
        "[seg]\naws_access_key_id = profiles-key\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    recorder = Recorder()
    with serving(recorder) as url:
        bucket(url, s3_access_key=None, s3_secret_key=None, aws_profile="seg").put(KEY, b"1")
    assert "Credential=profiles-key/" in recorder.requests[0].headers["Authorization"]


@pytest.mark.parametrize("profile", [None, "no-such-profile"])
def test_no_credentials_anywhere_are_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, profile: str | None
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreUnavailable, match=r"credentials|profile"):
        bucket("http://127.0.0.1:9", s3_access_key=None, s3_secret_key=None, aws_profile=profile)


class MillionJobs:
    """An S3 server that lists a million jobs of ten files each, a thousand keys a request, as AWS
    does."""

    def __init__(self) -> None:
        self.pages = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.pages += 1
        query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        after = query.get("continuation-token") or query.get("start-after", "")
        count = int(query.get("max-keys", 1000))
        keys = [key for key in self._from(self._index(after), count + 10) if key > after][:count]
        items = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag>"
            "<Size>1</Size></Contents>"
            for key in keys
        )
        body = (
            f"<ListBucketResult><Name>bucket</Name><KeyCount>{len(keys)}</KeyCount><IsTruncated>true</IsTruncated>"
            f"<NextContinuationToken>{keys[-1]}</NextContinuationToken>{items}</ListBucketResult>"
        )
        return Response(body, mimetype="application/xml")(environ, start_response)

    @staticmethod
    def _index(after: str) -> int:
        digits = "".join(character for character in after if character.isdigit())[:7]
        return int(digits) * 10 if digits else 0

    @staticmethod
    def _from(start: int, count: int) -> Iterator[str]:
        for number in range(start, min(start + count, 10_000_000)):
            yield f"assets/{number // 10:07}/{number % 10}.webp"


def test_a_limited_listing_of_a_million_jobs_is_one_request() -> None:
    server = MillionJobs()
    with serving(server) as url:
        store = bucket(url)
        found = store.list("assets/", after="assets/0123456/3.webp", limit=3)
        assert [info.key for info in found] == [
            f"assets/0123456/{number}.webp" for number in (4, 5, 6)
        ]
        assert server.pages == 1
        assert store.list_folders("assets/", after="0123456", limit=3) == [
            "0123457",
            "0123458",
            "0123459",
        ]
        assert server.pages == 2
        assert len(store.list("assets/", limit=1500)) == 1500
        assert server.pages <= 4


@pytest.mark.process
def test_a_forked_process_is_refused_before_it_hangs(bucket_settings: Settings) -> None:
    """obstore's threads stay with the parent: without this, the child would hang, and then the
    parent too."""
    script = (
        "import os, sys\n"
        "from seg_pipeline.settings import Settings\n"
        "from seg_pipeline.store import open_store\n"
        "from seg_pipeline.errors import StoreUnavailable\n"
        "store = open_store(Settings(_env_file=None))\n"
        "store.put('a/b', b'1')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        open_store(Settings(_env_file=None)).get('a/b')\n"
        "    except StoreUnavailable as error:\n"
        "        os._exit(0 if 'forked' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert store.get('a/b') == b'1'\n"
    )
    run_python(script, bucket_settings)


@pytest.mark.process
def test_a_process_forked_before_the_first_use_may_use_the_bucket(
    bucket_settings: Settings,
) -> None:
    """As Celery's children are: their parent only talks to the broker."""
    store = open_store(bucket_settings)
    script = (
        "import os\n"
        "from seg_pipeline.settings import Settings\n"
        "from seg_pipeline.store import open_store\n"
        "store = open_store(Settings(_env_file=None))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    store.put('a/b', b'1')\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    run_python(script, bucket_settings)
    assert store.get("a/b") == b"1"


@pytest.mark.parametrize("in_bucket", [True, False])
@pytest.mark.process
def test_boto3_is_not_imported_until_its_chain_is_needed(
    bucket_settings: Settings, in_bucket: bool
) -> None:
    """It costs the API a quarter of a second and tens of megabytes."""
    script = (
        "import sys\n"
        "from seg_pipeline.settings import Settings\n"
        "from seg_pipeline.store import open_store\n"
        "import seg_pipeline.jobs.repository\n"
        "open_store(Settings(_env_file=None)).list('inbox/')\n"
        "heavy = {'boto3', 'botocore', 'dagster', 'fastapi', 'torch'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    run_python(script, bucket_settings if in_bucket else None)


def run_python(script: str, settings: Settings | None) -> None:
    """Runs the script in a fresh process whose environment names the bucket; fails with what it
    printed."""
    environment = {"PATH": "", "PYTHONPATH": "."}
    if settings and settings.s3_access_key and settings.s3_secret_key:
        environment |= {
            "S3_BUCKET": settings.s3_bucket or "",
            "S3_ENDPOINT_URL": settings.s3_endpoint_url or "",
            "S3_ACCESS_KEY": settings.s3_access_key.get_secret_value(),
            "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        }
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_memory_names_files_as_a_folder_does() -> None:
    store = ObjectStore.in_memory()
    assert store.file_name(KEY) == "job-1/original.webp"
    assert (
        store.url(KEY, "http://localhost:8000/")
        == "http://localhost:8000/assets/job-1/original.webp"
    )
