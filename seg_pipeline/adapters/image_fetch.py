"""An image from a URL that somebody else chose: http, https or s3, within bounds of time, size and address.

What goes out is one GET with no credentials of ours, never through a proxy (which would connect where we may not).
`s3://bucket/key` is read with the credentials of the store, so it reaches whatever those may read.
"""

import random
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpcore
import httpx

from seg_pipeline.adapters.public_network import PublicNetwork, Resolve, resolve_host
from seg_pipeline.errors import FetchError, FetchRejected, FetchUnavailable, ImageTooLarge, InvalidUrl, UrlRefused
from seg_pipeline.settings import Settings

MAX_URL_LENGTH = 8192
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429)
_HEADERS = [
    (b"User-Agent", b"seg-pipeline"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
]


@dataclass(frozen=True)
class Limits:
    """How long a fetch may take and how often it may be led on or begin anew."""

    connect_seconds: float = 5
    read_seconds: float = 10
    total_seconds: float = 60
    redirects: int = 5
    tries: int = 3
    pause_seconds: float = 0.5
    """Before the second try, give or take half; doubled before each one after it."""


LIMITS = Limits()


def check_image_url(url: str) -> str:
    """The URL, if it is an http, https or s3 address that could be fetched; else InvalidUrl. Asks nobody."""
    if _is_s3(url):
        _parse_s3(url)
    else:
        _parse_http(url)
    return url


def fetch_image(url: str, settings: Settings, resolve: Resolve = resolve_host, limits: Limits = LIMITS) -> bytes:
    """The bytes at the URL, at most MAX_IMAGE_BYTES; whether they are an image is for `images` to say.

    Raises InvalidUrl, UrlRefused, FetchRejected and ImageTooLarge for good, FetchUnavailable once the tries are used
    up. No message holds the URL's query, where signatures are.
    """
    give_up_at = time.monotonic() + limits.total_seconds
    if _is_s3(url):
        bucket, key = _parse_s3(url)
        return _retrying(lambda: _get_s3(bucket, key, settings, limits, give_up_at), limits, give_up_at)
    parsed = _parse_http(url)
    network = PublicNetwork(give_up_at, resolve, settings.allow_private_urls)
    return _retrying(lambda: _follow(parsed, network, settings.max_image_bytes, limits), limits, give_up_at)


def _is_s3(url: str) -> bool:
    return str(url)[:5].lower() == "s3://"


def _parse_s3(url: str) -> tuple[str, str]:
    """Bucket and key, the key as it stands: S3 addresses are not percent-encoded, and may hold spaces."""
    bucket, _, key = url[5:].partition("/")
    if not (_BUCKET.fullmatch(bucket) and 0 < len(key.encode()) <= 1024 and key.isprintable()):
        raise InvalidUrl(f"image_url {_masked(url)} must be s3://bucket/key, with a key of at most 1024 bytes.")
    return bucket, key


def _parse_http(url: str) -> httpx.URL:
    if not isinstance(url, str) or not url.isprintable() or re.search(r"[\s\\]", url) or len(url) > MAX_URL_LENGTH:
        raise InvalidUrl(
            f"image_url {_masked(url)} must be at most {MAX_URL_LENGTH} characters without spaces and backslashes."
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidUrl(f"image_url {_masked(url)} is not a URL.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidUrl(f"image_url {_masked(url)} must begin with http://, https:// or s3:// and a host.")
    if parsed.userinfo:
        raise InvalidUrl(f"image_url {_masked(url)} must not hold a user name or password.")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise InvalidUrl(f"image_url {_masked(url)} has no port that exists.")
    return parsed


def _masked(url: object) -> str:
    """Enough of a URL to know it by: no user, password, query or fragment, where secrets are."""
    text = re.sub(r"//[^/?#]*@", "//…@", str(url))
    bare = re.split(r"[?#]", text, maxsplit=1)[0]
    return repr(bare[:200]) if bare == text else f"{bare[:200]!r} (with a query)"


def _retrying(get: Callable[[], bytes], limits: Limits, give_up_at: float) -> bytes:
    """What `get` gives, tried again while it raises FetchUnavailable and there is time."""
    pause = limits.pause_seconds
    for _ in range(limits.tries - 1):
        try:
            return get()
        except FetchUnavailable:
            jittered = random.uniform(0.5, 1.5) * pause
            if time.monotonic() + jittered >= give_up_at:
                raise
            time.sleep(jittered)
            pause *= 2
    return get()


def _follow(url: httpx.URL, network: PublicNetwork, max_bytes: int, limits: Limits) -> bytes:
    """The body at the end of the redirects; each of them is checked as the first address was."""
    for _ in range(limits.redirects + 1):
        answer = _get(url, network, max_bytes, limits)
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise FetchRejected(f"{_masked(url)} is the end of more than {limits.redirects} redirects; send the last address.")


def _get(url: httpx.URL, network: PublicNetwork, max_bytes: int, limits: Limits) -> bytes | httpx.URL:
    """The body, or where it redirects to."""
    timeout = {"connect": limits.connect_seconds, "read": limits.read_seconds, "write": limits.read_seconds}
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    headers = [(b"Host", url.netloc), *_HEADERS]
    with (
        _fetch_errors(url),
        httpcore.ConnectionPool(_ssl_context(), network_backend=network) as pool,
        pool.stream("GET", target, headers=headers, extensions={"timeout": timeout}) as response,
    ):
        fields = {name.lower(): value for name, value in response.headers}
        if response.status in _REDIRECTS:
            return _redirected(url, fields.get(b"location"))
        if response.status != 200:
            raise _status_error(url, response.status)
        body = _Body(url, max_bytes, fields.get(b"content-encoding", b"").decode("latin-1"))
        body.expect(fields.get(b"content-length", b"").decode("latin-1"))
        return body.collect(response.iter_stream())


def _redirected(url: httpx.URL, location: bytes | None) -> httpx.URL:
    if not location:
        raise FetchRejected(f"{_masked(url)} redirects to nowhere.")
    try:
        return _parse_http(str(url.join(location.decode("utf-8", "replace"))))
    except (InvalidUrl, httpx.InvalidURL) as error:
        raise UrlRefused(f"{_masked(url)} redirects to what is no http or https address of a host.") from error


def _status_error(url: object, status: int) -> FetchError:
    if status in _BUSY or status >= 500:
        return FetchUnavailable(f"{_masked(url)} answered {status}; it may be back later.")
    return FetchRejected(f"{_masked(url)} answered {status} instead of the picture.")


class _Body:
    """The bytes of one answer, decoded, never more than `max_bytes` of them in memory."""

    def __init__(self, url: object, max_bytes: int, encoding: str) -> None:
        self._url = url
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._decoder: Any = None
        if encoding.lower() in ("gzip", "x-gzip", "deflate"):
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        elif encoding.lower() not in ("", "identity"):
            raise FetchRejected(f"{_masked(url)} sends the encoding {encoding[:20]!r} though none was asked for.")

    def expect(self, content_length: str) -> None:
        """Refuses what is announced as too large before it comes."""
        if content_length.isdigit() and int(content_length) > self._max_bytes:
            raise self._too_large()

    def collect(self, chunks: Iterable[bytes]) -> bytes:
        for chunk in chunks:
            self._data += self._decoded(chunk)
            if len(self._data) > self._max_bytes:
                raise self._too_large()
        if self._decoder is not None and not self._decoder.eof:
            raise FetchUnavailable(f"{_masked(self._url)} ended before its end.")
        return bytes(self._data)

    def _decoded(self, chunk: bytes) -> bytes:
        if self._decoder is None:
            return chunk
        room = self._max_bytes - len(self._data) + 1
        try:
            return bytes(self._decoder.decompress(chunk, room))
        except zlib.error as error:
            raise FetchRejected(f"{_masked(self._url)} is not compressed as it says.") from error

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(f"{_masked(self._url)} has more than MAX_IMAGE_BYTES ({self._max_bytes}).")


@contextmanager
def _fetch_errors(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        if _is_certificate_error(error):
            raise FetchRejected(f"the certificate of {_masked(url)} does not verify: {error}"[:300]) from error
        reason = str(error) or type(error).__name__
        raise FetchUnavailable(f"{_masked(url)} could not be fetched: {reason}"[:300]) from error


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _get_s3(bucket: str, key: str, settings: Settings, limits: Limits, give_up_at: float) -> bytes:
    from botocore.exceptions import BotoCoreError, ClientError

    url = f"s3://{bucket}/{key}"
    try:
        found = _s3_client(settings, limits).get_object(Bucket=bucket, Key=key)
        body = _Body(url, settings.max_image_bytes, found.get("ContentEncoding", ""))
        body.expect(str(found["ContentLength"]))
        with closing(found["Body"]) as stream:
            return body.collect(_until(stream.iter_chunks(2**16), url, give_up_at))
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        raise _status_error(url, status) from error
    except BotoCoreError as error:
        raise FetchUnavailable(f"{_masked(url)} could not be fetched: {type(error).__name__}") from error


def _until(chunks: Iterable[bytes], url: object, give_up_at: float) -> Iterator[bytes]:
    for chunk in chunks:
        if time.monotonic() > give_up_at:
            raise FetchUnavailable(f"{_masked(url)} could not be fetched: the time for all of it is over")
        yield chunk


@lru_cache(maxsize=4)
def _s3_client(settings: Settings, limits: Limits) -> Any:
    """A client with the store's endpoint and credentials, or boto3's own chain without them."""
    import boto3
    from botocore.config import Config

    access_key, secret_key = settings.s3_access_key, settings.s3_secret_key
    config = Config(
        connect_timeout=limits.connect_seconds, read_timeout=limits.read_seconds, retries={"total_max_attempts": 1}
    )
    return boto3.Session(profile_name=settings.aws_profile, region_name=settings.aws_region).client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id=access_key.get_secret_value() if access_key else None,
        aws_secret_access_key=secret_key.get_secret_value() if secret_key else None,
        config=config,
    )
