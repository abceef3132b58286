"""Fetches a picture from a URL that a client chose: http, https or s3, within bounds.

The bounds are of time, size and network. A fetch is one GET without credentials of ours. It never
uses a proxy, which could connect where we may not. `s3://bucket/key` is read with the store's
credentials, from the buckets that the operator allows.
"""

import asyncio
import hashlib
import re
import ssl
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import httpcore
import httpx

from seg_pipeline.adapters.content_encoding import ContentDecoder, UndecodableBody, UnknownEncoding
from seg_pipeline.adapters.public_network import PublicNetwork
from seg_pipeline.adapters.s3_client import answered_status, make_s3_client
from seg_pipeline.adapters.trust import ssl_context
from seg_pipeline.domain import MAX_URL_LENGTH
from seg_pipeline.errors import (
    FetchError,
    FetchRejected,
    FetchUnavailable,
    ImageTooLarge,
    InvalidUrl,
    UrlRefused,
)
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

S3_AT_ONCE = 16
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REDIRECTS = (300, 301, 302, 303, 307, 308)
_WITHOUT_CONTENT = (204, 205)
_BUSY = (202, 408, 425, 429)
"""Statuses that mean "not now": 202 says that the picture is yet to be made."""

_LONGEST_RETRY_AFTER_SECONDS = 60
_HEADERS = [
    (b"User-Agent", b"seg-pipeline"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
]


@dataclass(frozen=True)
class FetchLimits:
    """How long a fetch may take, in parts and in all, and how many redirects it may follow."""

    connect_seconds: float = 5
    read_seconds: float = 10
    total_seconds: float = 60
    redirects: int = 5


@dataclass(frozen=True)
class FetchedBody:
    """What a URL returned: how many bytes, their SHA-256, and which host answered how.

    `address` is the last one, after redirects, without query and fragment.
    """

    size: int
    sha256: str
    host: str
    address: str
    status: int


class S3Object(NamedTuple):
    """An object of a bucket."""

    bucket: str
    key: str

    @property
    def url(self) -> str:
        """The object's address."""
        return f"s3://{self.bucket}/{self.key}"


def check_image_url(url: str) -> str:
    """The URL, if it is a valid http, https or s3 address; else InvalidUrl. Uses no network."""
    if _is_s3(url):
        _parse_s3(url)
    else:
        _parse_http(url)
    return url


def public_address(url: str | None) -> str:
    """The URL as it may be shown and logged: without user, password, query and fragment."""
    return _without_secrets(url or "")[:500]


def host_of(url: str) -> str:
    """The host that is asked for the picture: `host:port`, or `s3://bucket`."""
    if _is_s3(url):
        return f"s3://{_parse_s3(url).bucket}"
    parsed = _parse_http(url)
    return f"{parsed.host}:{_port(parsed)}"


async def fetch_image(
    url: str,
    body: BinaryIO,
    settings: Settings,
    network: PublicNetwork,
    limits: FetchLimits | None = None,
) -> FetchedBody:
    """Writes the bytes at the URL into `body`, at most MAX_IMAGE_BYTES.

    This is one try. It does not check that the bytes are an image. InvalidUrl, UrlRefused,
    FetchRejected and ImageTooLarge are final. FetchUnavailable means that another try may help. No
    message holds the URL's query, which may hold signatures.
    """
    limits = limits or FetchLimits(total_seconds=settings.fetch_seconds)
    try:
        async with asyncio.timeout(limits.total_seconds):
            if _is_s3(url):
                return await _fetch_s3(url, body, settings, limits)
            return await _follow(_parse_http(url), body, network, settings.max_image_bytes, limits)
    except TimeoutError as error:
        raise FetchUnavailable(
            f"{_masked(url)} could not be fetched: the time for all of it ({limits.total_seconds:g}"
            " s) is over."
        ) from error


def _is_s3(url: str) -> bool:
    return str(url)[:5].lower() == "s3://"


def _parse_s3(url: str) -> S3Object:
    """Bucket and key. The key stays as it is.

    S3 keys are not percent-encoded, and may hold spaces.
    """
    bucket, _, key = url[5:].partition("/")
    if not (_BUCKET.fullmatch(bucket) and 0 < _utf8_length(key) <= 1024 and not _has_controls(key)):
        raise InvalidUrl(
            f"image_url {_masked(url)} must be s3://bucket/key, the key of 1 to 1024 bytes without"
            " control characters."
        )
    return S3Object(bucket, key)


def parse_s3_prefix(prefix: str) -> S3Object:
    """Bucket and beginning of keys, which may be empty; InvalidUrl if it is no s3:// address."""
    bucket, _, key = prefix[5:].partition("/")
    is_key = not key or (0 < _utf8_length(key) <= 1024 and not _has_controls(key))
    if not (_is_s3(prefix) and _BUCKET.fullmatch(bucket) and is_key):
        raise InvalidUrl(
            f"prefix {_masked(prefix)} must be s3://bucket/prefix, without control characters."
        )
    return S3Object(bucket, key)


def _utf8_length(text: str) -> int:
    """The bytes in UTF-8; 0 for text that UTF-8 cannot encode, such as half a surrogate pair."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def _has_controls(text: str) -> bool:
    """Whether a name holds control characters.

    Spaces of all scripts and joiners of emoji are allowed.
    """
    return any(unicodedata.category(letter) == "Cc" for letter in text)


def _check_characters(url: str) -> None:
    if (
        not isinstance(url, str)
        or len(url) > MAX_URL_LENGTH
        or _has_controls(url)
        or re.search(r"[ \\]", url)
    ):
        raise InvalidUrl(
            f"image_url {_masked(url)} must be at most {MAX_URL_LENGTH} characters without spaces"
            " and backslashes."
        )


def _parse_http(url: str) -> httpx.URL:
    _check_characters(url)
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: xn-- that is no name
        raise InvalidUrl(f"image_url {_masked(url)} is not a URL.") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise InvalidUrl(
            f"image_url {_masked(url)} must begin with http://, https:// or s3:// and a host."
        )
    if parsed.userinfo:
        raise InvalidUrl(f"image_url {_masked(url)} must not hold a user name or password.")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise InvalidUrl(f"image_url {_masked(url)} must have a port from 1 to 65535.")
    return parsed


def _port(url: httpx.URL) -> int:
    return url.port or {"http": 80, "https": 443}[url.scheme]


def _without_secrets(url: object) -> str:
    bare = re.sub(r"//[^/?#]*@", "//…@", str(url))
    if _is_s3(bare):  # its key may hold any of these
        return bare
    return re.split(r"[?#]", bare, maxsplit=1)[0]


def _masked(url: object) -> str:
    """Enough of a URL to recognise it: no user, password, query or fragment."""
    bare = _without_secrets(url)
    has_query = not _is_s3(bare) and any(mark in str(url) for mark in "?#")
    return f"{bare[:200]!r} (with a query)" if has_query else repr(bare[:200])


async def _follow(
    url: httpx.URL, body: BinaryIO, network: PublicNetwork, max_bytes: int, limits: FetchLimits
) -> FetchedBody:
    """The body at the end of the redirects. Each redirect is checked as the first address was."""
    for _ in range(limits.redirects + 1):
        answer = await _get(url, body, network, max_bytes, limits)
        if isinstance(answer, FetchedBody):
            return answer
        url = answer
    raise FetchRejected(
        f"{_masked(url)} comes after more than {limits.redirects} redirects; send the last address."
    )


async def _get(
    url: httpx.URL, body: BinaryIO, network: PublicNetwork, max_bytes: int, limits: FetchLimits
) -> FetchedBody | httpx.URL:
    """The body, or the address that it redirects to."""
    timeout = {
        "connect": limits.connect_seconds,
        "read": limits.read_seconds,
        "write": limits.read_seconds,
    }
    target = httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    headers = [(b"Host", url.netloc), *_HEADERS]
    with _fetch_errors(url):
        async with (
            httpcore.AsyncConnectionPool(ssl_context(), network_backend=network) as pool,
            pool.stream(
                "GET", target, headers=headers, extensions={"timeout": timeout}
            ) as response,
        ):
            fields = _Fields(response.headers)
            if response.status in _REDIRECTS:
                return _redirected(url, fields.first(b"location"))
            if not _is_whole(response.status, fields):
                raise status_error(url, response.status, fields.text(b"retry-after"))
            writer = _BodyWriter(url, body, max_bytes, fields.all(b"content-encoding"))
            writer.expect(fields.text(b"content-length"))
            async for chunk in response.aiter_stream():
                writer.write(chunk)
            return writer.end(url.host, response.status)


class _Fields:
    """The header fields of an answer, by lower-case name."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._headers = [(name.lower(), value) for name, value in headers]

    def first(self, name: bytes) -> bytes | None:
        return next((value for known, value in self._headers if known == name), None)

    def text(self, name: bytes) -> str:
        return (self.first(name) or b"").decode("latin-1").strip()

    def all(self, name: bytes) -> str:
        """The values of a list field, which may be split over several fields."""
        return ",".join(value.decode("latin-1") for known, value in self._headers if known == name)


def _is_whole(status: int, fields: _Fields) -> bool:
    """Whether the answer is the whole picture.

    A proxy may have changed it (203), and a partial answer (206) may cover all of it.
    """
    if status != 206:
        return 200 <= status < 300 and status not in (*_WITHOUT_CONTENT, *_BUSY)
    extent = re.fullmatch(r"bytes 0-(\d+)/(\d+)", fields.text(b"content-range"))
    return extent is not None and int(extent[1]) + 1 == int(extent[2])


def _redirected(url: httpx.URL, location: bytes | None) -> httpx.URL:
    if not location:
        raise FetchRejected(f"{_masked(url)} redirects to nowhere.")
    try:
        return _parse_http(str(url.join(location.decode("utf-8", "replace"))))
    except (InvalidUrl, httpx.InvalidURL, UnicodeError) as error:
        raise UrlRefused(
            f"{_masked(url)} redirects to an address that is not http or https with a host."
        ) from error


def status_error(
    url: object, status: int, retry_after: str = "", wanted: str = "the picture"
) -> FetchError:
    """What an answer with this status means, which is not what was wanted."""
    error: FetchError
    if status in _BUSY or status >= 500:
        error = FetchUnavailable(f"{_masked(url)} answered {status}; it may be back later.")
        error.retry_after_seconds = _seconds(retry_after)
    else:
        error = FetchRejected(f"{_masked(url)} answered {status} instead of {wanted}.")
    error.status = status
    return error


def _seconds(retry_after: str) -> float:
    """The seconds that `Retry-After` asks for, at most 60; 0 for a date or nothing."""
    if not retry_after.isdecimal():
        return 0
    return min(int(retry_after[:6]), _LONGEST_RETRY_AFTER_SECONDS)


class _BodyWriter:
    """Writes one answer's decoded bytes, and never more than `max_bytes` of them."""

    def __init__(self, url: object, body: BinaryIO, max_bytes: int, encodings: str) -> None:
        self._url = url
        self._body = body
        self._max_bytes = max_bytes
        self._size = 0
        self._sha256 = hashlib.sha256()
        try:
            self._decoder = ContentDecoder(encodings)
        except UnknownEncoding as error:
            raise FetchRejected(
                f"{_masked(url)} sends the encoding {error.name[:20]!r} though none was asked for."
            ) from error

    def expect(self, content_length: str) -> None:
        """Refuses an answer whose announced length is too large, before it comes."""
        if content_length.isdecimal() and int(content_length[:20]) > self._max_bytes:
            raise self._too_large()

    def write(self, chunk: bytes) -> None:
        """Decodes and writes the next bytes."""
        try:
            for piece in self._decoder.decode(chunk):
                self._size += len(piece)
                if self._size > self._max_bytes:
                    raise self._too_large()
                self._sha256.update(piece)
                self._body.write(piece)
        except UndecodableBody as error:
            raise FetchRejected(f"{_masked(self._url)} is not compressed as it says.") from error

    def end(self, host: str, status: int) -> FetchedBody:
        """What was written, once the whole answer has come."""
        if not self._decoder.is_complete:
            raise FetchUnavailable(f"{_masked(self._url)} broke off before its end.")
        return FetchedBody(
            self._size, self._sha256.hexdigest(), host, public_address(str(self._url)), status
        )

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(
            f"{_masked(self._url)} has more than MAX_IMAGE_BYTES = {self._max_bytes} bytes."
        )


@contextmanager
def _fetch_errors(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        if _is_certificate_error(error):
            raise FetchRejected(
                f"the certificate of {_masked(url)} does not verify: {error}"[:300]
            ) from error
        reason = str(error) or type(error).__name__
        raise FetchUnavailable(f"{_masked(url)} could not be fetched: {reason}"[:300]) from error


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


async def _fetch_s3(
    url: str, body: BinaryIO, settings: Settings, limits: FetchLimits
) -> FetchedBody:
    source = _parse_s3(url)
    check_s3_allowed(source, settings)
    give_up_at = time.monotonic() + limits.total_seconds
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(
        _s3_threads(), _get_s3, source, body, settings, limits, give_up_at
    )


def check_s3_allowed(source: S3Object, settings: Settings) -> None:
    """Raises UrlRefused unless the operator lets clients name this object.

    The service's own files are always refused. Without S3_SOURCES, other files of S3_BUCKET are
    allowed. Without S3_BUCKET as well, everything is allowed that S3 keys reach, if keys are set.
    """
    url = source.url
    if source.bucket == settings.s3_bucket and source.key.startswith(keys.PREFIXES):
        raise UrlRefused(
            f"{_masked(url)} is where this service keeps its own files; send a picture of yours."
        )
    if settings.s3_sources is None:
        allowed = _is_allowed_by_default(source, settings)
    else:
        allowed = any(_is_below(url, allowed) for allowed in settings.s3_sources.split(","))
    if not allowed:
        raise UrlRefused(
            f"{_masked(url)} is in no bucket that S3_SOURCES names; have its operator add it there."
        )


def _is_allowed_by_default(source: S3Object, settings: Settings) -> bool:
    if settings.s3_bucket is not None:
        return source.bucket == settings.s3_bucket
    return settings.s3_access_key is not None


def _is_below(url: str, allowed: str) -> bool:
    """Whether an object's address is within `allowed`: a bucket, or a bucket and a key prefix."""
    allowed = allowed.strip().removeprefix("s3://")
    bucket, slash, _ = allowed.partition("/")
    return bool(bucket) and url.startswith(f"s3://{allowed}" if slash else f"s3://{bucket}/")


@lru_cache(maxsize=1)
def _s3_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(S3_AT_ONCE, "s3-source")


def _get_s3(
    source: S3Object, body: BinaryIO, settings: Settings, limits: FetchLimits, give_up_at: float
) -> FetchedBody:
    url = source.url
    with s3_errors(url, "fetched", "the picture"):
        client = _s3_client(settings, limits)
        response = client.get_object(Bucket=source.bucket, Key=source.key)
        writer = _BodyWriter(
            url, body, settings.max_image_bytes, response.get("ContentEncoding", "")
        )
        writer.expect(str(response["ContentLength"]))
        with closing(response["Body"]) as stream:
            for chunk in stream.iter_chunks(2**16):
                if time.monotonic() > give_up_at:  # whoever waited for this thread has gone
                    raise FetchUnavailable(
                        f"{_masked(url)} could not be fetched: the time for all of it is over."
                    )
                writer.write(chunk)
        return writer.end(f"s3://{source.bucket}", 200)


@contextmanager
def s3_errors(url: str, done: str, wanted: str) -> Iterator[None]:
    """Raises FetchRejected or FetchUnavailable for what S3 and botocore raise inside."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise status_error(url, answered_status(error), wanted=wanted) from error
    except BotoCoreError as error:
        raise FetchUnavailable(
            f"{_masked(url)} could not be {done}: {type(error).__name__}."
        ) from error


@lru_cache(maxsize=4)
def _s3_client(settings: Settings, limits: FetchLimits) -> Any:
    return make_s3_client(
        settings,
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.read_seconds,
        retries={"total_max_attempts": 1},
        max_pool_connections=S3_AT_ONCE,
    )
