import asyncio
import gzip
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.adapters import image_fetch, public_network
from seg_pipeline.adapters.image_fetch import (
    FetchedBody,
    FetchLimits,
    check_image_url,
    fetch_image,
    host_of,
    public_address,
)
from seg_pipeline.adapters.public_network import (
    PublicNetwork,
    Resolve,
    Resolver,
    is_public,
    resolve_host,
)
from seg_pipeline.errors import (
    FetchError,
    FetchRejected,
    FetchUnavailable,
    ImageTooLarge,
    InvalidUrl,
    SegPipelineError,
    UrlRefused,
)
from seg_pipeline.settings import Settings
from seg_pipeline_tests.given_settings import GivenSettings
from seg_pipeline_tests.serving import http_server

PICTURE = bytes(range(256)) * 40
QUICK = FetchLimits(connect_seconds=2, read_seconds=2, total_seconds=20)
Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A server's answers, in turn and the last one for ever, and the requests that it saw."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [give(PICTURE)]
        self.requests: list[tuple[str, str]] = []
        """Path and Host header of each."""
        self.headers: dict[str, str] = {}
        self.port = 0

    def url(self, path: str = "/photo.jpg", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append((handler.path, handler.headers["Host"]))
        self.headers = dict(handler.headers)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer(handler)


def give(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return give(b"", status, Location=location)


def trickle(head: bytes, piece: bytes) -> Answer:
    """Sends `head`, then `piece` again and again, well within any time limit for a single read."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.02)

    return answer


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

    with http_server(Handler, tls) as port:
        site.port = port
        yield site


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def make_settings(**values: Any) -> Settings:
    return GivenSettings(**{"allow_private_urls": True, **values})


def fetch(
    url: str, limits: FetchLimits = QUICK, resolve: Resolve = resolve_host, **settings: Any
) -> bytes:
    return fetch_all(url, limits, resolve, **settings)[0]


def fetch_all(
    url: str, limits: FetchLimits = QUICK, resolve: Resolve = resolve_host, **settings: Any
) -> tuple[bytes, FetchedBody]:
    """The bytes at an address, and what is told of them."""
    values, body = make_settings(**settings), BytesIO()
    network = PublicNetwork(Resolver(resolve), values.allow_private_urls)
    fetched = asyncio.run(fetch_image(url, body, values, network, limits))
    return body.getvalue(), fetched


@pytest.fixture
def _this_site_counts_as_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 alone: a redirect to anywhere else on this machine is seen to be refused."""
    monkeypatch.setattr(
        public_network, "is_public", lambda address: address == "127.0.0.1" or is_public(address)
    )


# --- what may be asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://cdn.example.com/images/sample.jpg",
        "HTTPS://EXAMPLE.COM:8443/a%20b.jpg?width=3&X-Amz-Signature=abc#top",
        "http://bücher.example/ä.png",
        "https://[2606:4700:4700::1111]/x.png",
        "s3://bucket/key.jpg",
        "s3://my.bucket-1/a folder/photo #1?.jpg",
        "http://example.com/at 9.41\u202fAM/写真\u30001.png".replace(" ", "%20"),
        "http://example.com/" + "a" * 8000,
    ],
)
def test_addresses_of_pictures_pass(url: str) -> None:
    assert check_image_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "photo.jpg",
        "//example.com/photo.jpg",
        "ftp://example.com/photo.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http://",
        "http:///photo.jpg",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nHost: elsewhere",
        "http://example.com\\@127.0.0.1/",
        "http://user:secret@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://①②⑦.⓪.⓪.①/",
        "http://[::1/",
        "http://xn--a/photo.jpg",
        "http://xn--0/",
        "http://a\u202fb.example/",
        "http://example.com/" + "a" * 9000,
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3://Bucket/key",
        "s3://../key",
        "s3://bucket/" + "a" * 1025,
        "s3://bucket/a\nb",
        pytest.param("s3://bucket/\ud83d.png", id="half of a pair of surrogates"),
    ],
)
def test_what_is_no_such_address_is_invalid(url: str) -> None:
    with pytest.raises(InvalidUrl) as refusal:
        check_image_url(url)
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


# --- the plain way ------------------------------------------------------------------------------


def test_the_bytes_come_as_they_are(site: Site) -> None:
    assert fetch(site.url()) == PICTURE


def test_an_empty_answer_is_empty(site: Site) -> None:
    site.answers = [give(b"")]
    assert fetch(site.url()) == b""


def test_path_and_query_are_asked_as_they_were_given(site: Site) -> None:
    fetch(site.url("/a%20b/ü.jpg?sig=a%2Fb&x=1#part"))
    assert site.requests[0][0] == "/a%20b/%C3%BC.jpg?sig=a%2Fb&x=1"


def test_the_server_is_asked_by_name_while_the_address_comes_from_the_resolver(site: Site) -> None:
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    url = site.url(host="pictures.example")
    assert fetch(url, resolve=resolve) == PICTURE
    assert asked == [("pictures.example", site.port)]
    assert site.requests == [("/photo.jpg", f"pictures.example:{site.port}")]


def test_nothing_of_ours_goes_along(site: Site) -> None:
    fetch(site.url())
    assert set(site.headers) == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}


def test_proxies_of_the_environment_are_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy connects on our behalf, to addresses that nobody checked."""
    with serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert fetch(site.url()) == PICTURE
        assert proxy.requests == []


# --- size ---------------------------------------------------------------------------------------


def test_a_picture_of_exactly_the_limit_comes(site: Site) -> None:
    assert fetch(site.url(), max_image_bytes=len(PICTURE)) == PICTURE


def test_what_is_announced_as_too_large_is_refused_before_it_comes(site: Site) -> None:
    site.answers = [give(b"", length=10**12)]
    with pytest.raises(ImageTooLarge, match=r"more than MAX_IMAGE_BYTES = 10000 bytes"):
        fetch(site.url(), max_image_bytes=10_000)


def test_what_is_not_announced_is_refused_while_it_comes(site: Site) -> None:
    site.answers = [trickle(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096)]
    with pytest.raises(ImageTooLarge):
        fetch(site.url(), max_image_bytes=10_000)
    assert len(site.requests) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_answer_is_unpacked(encoding: str, site: Site) -> None:
    """Some servers compress though they were asked not to."""
    packed = gzip.compress(PICTURE) if encoding == "gzip" else zlib.compress(PICTURE)
    site.answers = [give(packed, Content_Encoding=encoding)]
    assert fetch(site.url()) == PICTURE


def test_a_compressed_answer_that_unpacks_past_the_limit_is_refused(site: Site) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    site.answers = [give(bomb, Content_Encoding="gzip")]
    assert len(bomb) < 100_000
    with pytest.raises(ImageTooLarge):
        fetch(site.url(), max_image_bytes=100_000)


def test_an_encoding_that_nobody_asked_for_is_rejected(site: Site) -> None:
    site.answers = [give(PICTURE, Content_Encoding="br")]
    with pytest.raises(FetchRejected, match="encoding 'br'"):
        fetch(site.url())


def test_a_broken_compression_is_rejected(site: Site) -> None:
    site.answers = [give(PICTURE, Content_Encoding="gzip")]
    with pytest.raises(FetchRejected, match="not compressed as it says"):
        fetch(site.url())


# --- time and trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 205, 206, 304])
def test_an_answer_that_will_not_change_is_not_asked_for_again(status: int, site: Site) -> None:
    site.answers = [give(b"", status)]
    with pytest.raises(FetchRejected, match=f"answered {status} instead of the picture"):
        fetch(site.url())
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [202, 408, 425, 429, 500, 502, 503, 504])
def test_an_answer_that_may_change_is_worth_another_try(status: int, site: Site) -> None:
    site.answers = [give(b"", status)]
    with pytest.raises(
        FetchUnavailable, match=f"answered {status}; it may be back later"
    ) as failure:
        fetch(site.url())
    assert not failure.value.permanent
    assert (failure.value.status, len(site.requests)) == (status, 1)


@pytest.mark.parametrize(
    ("said", "seconds"), [("7", 7), ("86400", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0)]
)
def test_a_server_may_ask_for_a_pause_within_reason(said: str, seconds: float, site: Site) -> None:
    site.answers = [give(b"", 503, Retry_After=said)]
    with pytest.raises(FetchUnavailable) as failure:
        fetch(site.url())
    assert failure.value.retry_after_seconds == seconds


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_that_breaks_off_is_not_taken(encoding: str, site: Site) -> None:
    body = gzip.compress(PICTURE) if encoding == "gzip" else PICTURE
    site.answers = [give(body[:-9], length=len(body), Content_Encoding=encoding)]
    with pytest.raises(FetchUnavailable):
        fetch(site.url())


def test_a_compressed_answer_without_its_end_is_not_taken_for_whole(site: Site) -> None:
    site.answers = [give(gzip.compress(PICTURE)[:-9], Content_Encoding="gzip")]
    with pytest.raises(FetchUnavailable, match="broke off before its end"):
        fetch(site.url())


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(FetchUnavailable, match="could not be fetched"):
        fetch(f"http://127.0.0.1:{port}/photo.jpg")


def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(FetchUnavailable, match=r"nowhere\.example cannot be resolved"):
        fetch("http://nowhere.example/photo.jpg", resolve=resolve)


def test_a_server_that_hangs_is_unavailable() -> None:
    limits = FetchLimits(read_seconds=0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(FetchUnavailable):
            fetch(url, limits)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Slow: x\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "headers", "interim answers"],
)
def test_a_server_that_keeps_trickling_is_left_when_the_time_is_over(
    head: bytes, piece: bytes, site: Site
) -> None:
    site.answers = [trickle(head, piece)]
    with pytest.raises(FetchUnavailable):
        fetch(site.url(), FetchLimits(read_seconds=5, total_seconds=0.3))
    assert len(site.requests) == 1


def test_what_speaks_no_http_is_unavailable(site: Site) -> None:
    site.answers = [trickle(b"SSH-2.0-OpenSSH_9.9\r\n", b"\r\n")]
    with pytest.raises(FetchUnavailable, match="could not be fetched"):
        fetch(site.url())


# --- redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, site: Site) -> None:
    site.answers = [redirect("/elsewhere.jpg", status), give(PICTURE)]
    assert fetch(site.url()) == PICTURE
    assert [path for path, _ in site.requests] == ["/photo.jpg", "/elsewhere.jpg"]


def test_five_redirects_are_followed_and_six_are_not(site: Site) -> None:
    site.answers = [redirect(f"/{step}") for step in range(5)] + [give(PICTURE)]
    assert fetch(site.url()) == PICTURE
    site.answers = [redirect("/again")]
    site.requests.clear()
    with pytest.raises(FetchRejected, match="more than 5 redirects"):
        fetch(site.url())
    assert len(site.requests) == 6


@pytest.mark.usefixtures("_this_site_counts_as_public")
@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "127.0.0.2",
        "2130706434",
        "0x7f.2",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "10.0.0.1",
        "0.0.0.0",
    ],
)
def test_a_redirect_to_this_machine_or_its_neighbours_is_refused(host: str, site: Site) -> None:
    site.answers = [redirect(site.url("/latest/meta-data", host))]
    with pytest.raises(UrlRefused, match="not a public address") as refusal:
        fetch(site.url(), allow_private_urls=False)
    assert refusal.value.permanent
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "s3://bucket/key", "ftp://example.com/", "http://user:pw@127.0.0.1/"],
)
def test_a_redirect_to_another_kind_of_address_is_refused(location: str, site: Site) -> None:
    site.answers = [redirect(location)]
    with pytest.raises(UrlRefused, match="redirects to an address that is not http"):
        fetch(site.url())


def test_a_redirect_to_nowhere_is_rejected(site: Site) -> None:
    site.answers = [give(b"", 302)]
    with pytest.raises(FetchRejected, match="redirects to nowhere"):
        fetch(site.url())


# --- private addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "0",
     "[::1]", "[::]",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)  # fmt: skip
def test_this_machine_is_refused_however_it_is_spelled(host: str, site: Site) -> None:
    with pytest.raises(UrlRefused):
        fetch(site.url(host=host), allow_private_urls=False)
    assert site.requests == []


@pytest.mark.parametrize("host", ["localhost.", "127.0.0.1."])
def test_a_trailing_dot_leads_nowhere_private(host: str, site: Site) -> None:
    """Resolvers differ in whether they know such a name; none may lead to this machine."""
    with pytest.raises((UrlRefused, FetchUnavailable)):
        fetch(site.url(host=host), allow_private_urls=False)
    assert site.requests == []


def test_a_name_is_refused_for_its_address(site: Site) -> None:
    with pytest.raises(UrlRefused, match=r"rebound\.example is not a public address"):
        fetch(
            site.url(host="rebound.example"),
            resolve=lambda *_: ["127.0.0.1"],
            allow_private_urls=False,
        )
    assert site.requests == []


@pytest.mark.usefixtures("_this_site_counts_as_public")
def test_an_answer_that_changes_between_check_and_connection_changes_nothing(site: Site) -> None:
    """The name's second answer would be private; there is no second question."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    url = site.url(host="rebinding.example")
    assert fetch(url, resolve=lambda *_: next(answers), allow_private_urls=False) == PICTURE
    assert next(answers) == ["127.0.0.2"]


@pytest.mark.usefixtures("_this_site_counts_as_public")
def test_every_hop_is_checked_anew(site: Site) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    site.answers = [redirect("/elsewhere.jpg")]
    with pytest.raises(UrlRefused):
        fetch(
            site.url(host="rebinding.example"),
            resolve=lambda *_: next(answers),
            allow_private_urls=False,
        )
    assert len(site.requests) == 1


# --- certificates -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for pictures.example, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pictures.example")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("pictures.example")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pictures.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_site(certificate: Path) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as site:
        yield site


def test_the_certificate_is_held_against_the_name_and_not_the_address(
    tls_site: Site, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(image_fetch, "ssl_context", lambda: trusting)

    def fetch_from(host: str) -> bytes:
        url = tls_site.url(host=host, scheme="https")
        return fetch(url, resolve=lambda *_: ["127.0.0.1"])

    assert fetch_from("pictures.example") == PICTURE
    with pytest.raises(FetchRejected, match=r"certificate of 'https://imposter\.example"):
        fetch_from("imposter.example")


def test_a_certificate_that_nobody_vouches_for_is_rejected(tls_site: Site) -> None:
    with pytest.raises(FetchRejected, match="does not verify"):
        fetch(
            tls_site.url(host="pictures.example", scheme="https"), resolve=lambda *_: ["127.0.0.1"]
        )
    assert tls_site.requests == []


# --- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [give(b"", 403), give(b"", 500), give(b"", length=10**12),
     redirect("/photo.jpg?X-Amz-Signature=topsecret"),
     redirect("http://me:topsecret@127.0.0.1/"), give(b"", 302), give(b"x", length=5)],
)  # fmt: skip
def test_no_error_tells_what_a_query_or_a_user_part_holds(answer: Answer, site: Site) -> None:
    site.answers = [answer]
    with pytest.raises(SegPipelineError) as failure:
        fetch(site.url("/photo.jpg?X-Amz-Credential=AKIA&X-Amz-Signature=topsecret"))
    assert "topsecret" not in str(failure.value)
    assert "AKIA" not in str(failure.value)
    assert "photo.jpg" in str(failure.value)


# --- buckets ------------------------------------------------------------------------------------


def s3_client(endpoint: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "key-id", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


@pytest.fixture(scope="module")
def bucket(aws_endpoint: str) -> dict[str, Any]:
    """Settings that reach a bucket named `pictures` with some objects in it."""
    client = s3_client(aws_endpoint)
    client.create_bucket(Bucket="pictures")
    client.put_object(Bucket="pictures", Key="a folder/photo #1?.jpg", Body=PICTURE)
    client.put_object(
        Bucket="pictures", Key="packed", Body=gzip.compress(PICTURE), ContentEncoding="gzip"
    )
    return {"s3_endpoint_url": aws_endpoint, "s3_access_key": "key-id", "s3_secret_key": "secret"}


def test_an_object_of_a_bucket_comes_by_its_key(bucket: dict[str, Any]) -> None:
    assert fetch("s3://pictures/a folder/photo #1?.jpg", **bucket) == PICTURE


def test_the_operators_endpoint_may_be_private(bucket: dict[str, Any]) -> None:
    """The client names a bucket, and the operator where buckets are."""
    assert (
        fetch("s3://pictures/a folder/photo #1?.jpg", **bucket, allow_private_urls=False) == PICTURE
    )


def test_a_compressed_object_is_unpacked(bucket: dict[str, Any]) -> None:
    assert fetch("s3://pictures/packed", **bucket) == PICTURE


def test_an_object_over_the_limit_is_refused(bucket: dict[str, Any]) -> None:
    with pytest.raises(ImageTooLarge):
        fetch("s3://pictures/a folder/photo #1?.jpg", **bucket, max_image_bytes=len(PICTURE) - 1)


@pytest.mark.parametrize("url", ["s3://pictures/missing.jpg", "s3://no-such-bucket/photo.jpg"])
def test_an_object_that_is_not_there_is_rejected(url: str, bucket: dict[str, Any]) -> None:
    with pytest.raises(FetchRejected, match="answered 404 instead of the picture"):
        fetch(url, **bucket)


def test_a_bucket_that_cannot_be_reached_is_unavailable(bucket: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    away = {**bucket, "s3_endpoint_url": f"http://127.0.0.1:{port}"}
    with pytest.raises(FetchUnavailable, match="EndpointConnectionError"):
        fetch("s3://pictures/photo.jpg", **away)


def test_a_bucket_that_is_busy_is_worth_another_try(site: Site, bucket: dict[str, Any]) -> None:
    site.answers = [give(b"", 503)]
    with pytest.raises(FetchUnavailable, match="answered 503"):
        fetch("s3://pictures/photo.jpg", **{**bucket, "s3_endpoint_url": site.url("")})
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "key",
    [
        "a\u00a0b.png",
        "at 9.41\u202fAM.png",
        "写真\u30001.png",
        "👨‍👩‍👧.png",
        "soft\u00adhyphen.png",
    ],
)
def test_names_may_hold_the_spaces_and_joiners_of_all_scripts(
    key: str, bucket: dict[str, Any], aws_endpoint: str
) -> None:
    """macOS puts U+202F into the name of every screenshot."""
    s3_client(aws_endpoint).put_object(Bucket="pictures", Key=key, Body=PICTURE)
    assert fetch(f"s3://pictures/{key}", **bucket) == PICTURE


# What may be read of buckets


OWN = {"s3_bucket": "own", "s3_access_key": "key-id", "s3_secret_key": "secret"}


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "s3://pictures/a.png"),  # the machine's own role would be used
        (OWN, "s3://pictures/a.png"),
        (OWN, "s3://own/assets/job-1/source.png"),
        (OWN, "s3://own/state/format.json"),
        (OWN, "s3://own-2/incoming/a.png"),
        ({**OWN, "s3_sources": ""}, "s3://own/incoming/a.png"),
        ({**OWN, "s3_sources": "pictures, own/incoming/"}, "s3://other/a.png"),
        ({**OWN, "s3_sources": "pictures, own/incoming/"}, "s3://pictures-2/a.png"),
        ({**OWN, "s3_sources": "pictures, own/incoming/"}, "s3://own/elsewhere/a.png"),
        ({**OWN, "s3_sources": "own"}, "s3://own/assets/job-1/source.png"),
        ({**OWN, "s3_sources": "own"}, "s3://own/fetching/job-1"),
        ({"s3_sources": " , "}, "s3://pictures/a.png"),
    ],
)
def test_a_bucket_is_read_only_where_the_operator_allows_it(
    settings: dict[str, Any], url: str
) -> None:
    with pytest.raises(UrlRefused):
        fetch(url, **settings)


@pytest.mark.parametrize(
    "sources", [None, "pictures", "other, pictures/a folder/", "s3://pictures/a folder"]
)
def test_what_the_operator_allows_is_read(sources: str | None, bucket: dict[str, Any]) -> None:
    """Keys that were set without a bucket of the service's own are there for nothing else."""
    assert fetch("s3://pictures/a folder/photo #1?.jpg", **bucket, s3_sources=sources) == PICTURE


def test_by_default_the_services_bucket_is_read_beside_its_own_files(
    bucket: dict[str, Any],
) -> None:
    """An operator who puts pictures into it means them to be read."""
    own = {**bucket, "s3_bucket": "pictures"}
    assert fetch("s3://pictures/a folder/photo #1?.jpg", **own) == PICTURE


# What is told of a fetch


def test_who_answered_is_told_without_the_query(site: Site) -> None:
    site.answers = [redirect("/end.jpg?X-Amz-Signature=topsecret#top"), give(PICTURE, 203)]
    _, fetched = fetch_all(site.url("/begin.jpg?sig=topsecret"))
    assert (fetched.size, fetched.status, fetched.host) == (len(PICTURE), 203, "127.0.0.1")
    assert fetched.address == site.url("/end.jpg")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/b.png?X-Amz-Signature=topsecret", "https://a.example/b.png"),
        ("https://a.example/b.png#topsecret", "https://a.example/b.png"),
        ("https://a.example?topsecret", "https://a.example"),
        ("https://me:topsecret@a.example/b.png", "https://…@a.example/b.png"),
        ("s3://bucket/a?b#c.png", "s3://bucket/a?b#c.png"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert public_address(url) == shown


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Pictures.example/a.png", "pictures.example:80"),
        ("https://pictures.example/a.png", "pictures.example:443"),
        ("https://[2606:4700::1]:8443/a.png", "2606:4700::1:8443"),
        ("s3://bucket/key", "s3://bucket"),
    ],
)
def test_fetches_are_counted_by_host_and_port(url: str, host: str) -> None:
    assert host_of(url) == host


def test_every_failure_is_one_of_the_fetch_errors() -> None:
    assert all(
        issubclass(error, FetchError) for error in (UrlRefused, FetchRejected, FetchUnavailable)
    )
