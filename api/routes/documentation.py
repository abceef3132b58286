"""The OpenAPI page, from files of an installed package: it works without the internet."""

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response

from api.error_responses import FileNotPublished
from api.service import in_thread

router = APIRouter(tags=["documentation"])

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:"
)
"""The page starts Swagger UI from an inline script. Nothing may come from another host."""


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Swagger UI. Its URLs are relative, so that it also works below a proxy's prefix."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str) -> Response:
    """One of Swagger UI's files, from the fastapi-offline package."""
    if name not in _FILES:
        raise FileNotPublished(f"there is nothing at /docs/{name[:80]}.")
    path = await in_thread(lambda: files("fastapi_offline").joinpath("static", name))
    return FileResponse(
        str(path), media_type=_FILES[name], headers={"Cache-Control": "public, max-age=86400"}
    )
