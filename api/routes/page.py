"""The address `/`: a page for people, and the service's card for programs."""

from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.metadata import version
from importlib.resources import files
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from api.error_responses import FileNotPublished
from api.middleware.hosts import is_loopback
from api.schemas import ServiceCard
from api.service import Service, ServiceDep, in_thread
from seg_pipeline.exports import FORMATS, ExportFormat
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

router = APIRouter(tags=["documentation"])

_PUBLISHED = {
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in (
            *("app", "batch", "client", "clock", "dom", "links", "masks", "options", "prompts"),
            *("recent", "result", "snippets", "uploads", "viewer", "zoom"),
        )
    },
    "sample.jpg": "image/jpeg",
}
"""The only names that are served."""


@dataclass(frozen=True)
class UiFile:
    """A file of the page, held by browsers as long as its content is the same."""

    content: bytes
    media_type: str

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        """The file, or 304 if the client has it."""
        etag = f'"{sha256(self.content).hexdigest()[:32]}"'
        headers = {
            "ETag": etag,
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            **headers,
        }
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


@router.get(
    "/",
    summary="What answers here",
    response_model=ServiceCard,
    responses={
        200: {
            "description": "The card; to a browser, which prefers `text/html`, the page.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        }
    },
)
async def front(request: Request, service: ServiceDep) -> Response:
    """The service's name, and where its documentation is."""
    if prefers_html(",".join(request.headers.getlist("accept"))):
        return await _page(request, service)
    links = service.links(request)
    card = {
        "service": "seg-pipeline",
        "version": version("seg-pipeline"),
        "docs": links.to("/docs"),
        "openapi": links.to("/openapi.json"),
    }
    return JSONResponse(card, headers={"Vary": "Accept"})


@router.get("/ui/{name}", include_in_schema=False)
async def ui_file(request: Request, name: str) -> Response:
    """One of the page's files."""
    if name not in _PUBLISHED:
        raise FileNotPublished(f"there is nothing at /ui/{name[:80]}.")
    file = UiFile(await in_thread(_read, name), _PUBLISHED[name])
    return file.response(request, {})


def prefers_html(accept: str) -> bool:
    """Whether a client wants `text/html` more than JSON (RFC 9110, section 12.5.1).

    `*/*`, as curl sends it, is no such wish.
    """
    return _quality(accept, "text/html") > _quality(accept, "application/json")


def dagster_url(settings: Settings) -> str:
    """Where a browser finds the Dagster UI, or nothing if that is not known."""
    if settings.dagster_url:
        return settings.dagster_url.rstrip("/")
    return f"http://localhost:{settings.dagster_port}" if is_loopback(settings.api_host) else ""


def policy(service: Service) -> str:
    """What the page may load: only its own, and pictures from where the links to files lead."""
    link = urlsplit(service.files.url(keys.original("a"), "http://self"))
    host = "" if link.netloc == "self" else f" {link.scheme}://{link.netloc}"
    return (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self';"
        f" frame-ancestors 'none'; img-src 'self' blob: data:{host}"
    )


async def _page(request: Request, service: Service) -> Response:
    page = (await in_thread(_read, "index.html")).decode()
    values = {
        "dagster-url": dagster_url(service.settings),
        "export-formats": " ".join(name for name, each in FORMATS.items() if _is_whole(each)),
        "version": version("seg-pipeline"),
    }
    for name, value in values.items():
        page = page.replace(f"{{{{{name}}}}}", escape(value))
    headers = {
        "Vary": "Accept",
        "Content-Security-Policy": policy(service),
        "Referrer-Policy": "no-referrer",
    }
    return UiFile(page.encode(), "text/html; charset=utf-8").response(request, headers)


def _is_whole(format: ExportFormat) -> bool:
    """Whether it is made of all segments at once."""
    return "segment" not in format.options


def _read(name: str) -> bytes:
    if name == "sample.jpg":
        return files("seg_pipeline").joinpath("demo", name).read_bytes()
    return files("api").joinpath("ui", name).read_bytes()


def _quality(accept: str, media_type: str) -> float:
    """The weight of a media type by the most specific range that names it; 0 if none does."""
    weights = dict(_ranges(accept))
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if name in weights:
            return weights[name]
    return 0.0


def _ranges(accept: str) -> list[tuple[str, float]]:
    parts = (part.partition(";") for part in accept.lower().split(","))
    return [(name.strip(), _weight(parameters)) for name, _, parameters in parts]


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
