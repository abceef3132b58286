"""The files of finished jobs.

Links go to browsers, which have no keys: a uuid or a signed link is enough.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response, StreamingResponse

from api.auth import RequireLinkOrKey
from api.error_responses import AssetNotFound
from api.openapi import UNCHANGED, failures
from api.service import Service, ServiceDep, about_job, in_thread
from seg_pipeline.domain import check_uuid
from seg_pipeline.errors import InvalidUuid, ObjectNotFound
from seg_pipeline.jobs.records import Result
from seg_pipeline.store import ObjectInfo, keys

router = APIRouter(tags=["files"])

_PUBLISHED = re.compile(
    r"(?:original|overlay|thumbnail)\.webp|mask_images/mask_[0-9]{3,6}\.png|crops/[0-9a-f]{32}\.webp"
    rf"|source\.(?:{'|'.join(keys.PICTURE_EXTENSIONS)})"
)
"""The only names that are served, so no name leads out of the folder."""


@dataclass(frozen=True)
class Asset:
    """A file of a finished job, and when it expires."""

    info: ObjectInfo
    expires_at: datetime

    @property
    def etag(self) -> str:
        """The object's tag as a strong one, in quotes."""
        return '"{}"'.format(self.info.tag.strip('"').removeprefix('W/"'))

    def headers(self) -> dict[str, str]:
        """Headers for caching by the client alone, and no longer than the file is kept."""
        max_age = max(0, int((self.expires_at - datetime.now(UTC)).total_seconds()))
        headers = {
            "ETag": self.etag,
            "Last-Modified": format_datetime(self.info.last_modified.astimezone(UTC), usegmt=True),
            "Cache-Control": f"private, max-age={max_age}",
            "X-Content-Type-Options": "nosniff",
        }
        if "/source." in self.info.key:
            # Untrusted bytes as received: nothing in them may run in a browser.
            headers |= {
                "Content-Security-Policy": "default-src 'none'; sandbox",
                "Content-Disposition": "attachment",
            }
        return headers


@router.get(
    "/assets/{uuid}/{name:path}",
    summary="A file of a finished job",
    response_class=Response,
    dependencies=[RequireLinkOrKey],
    responses={
        200: {"description": "The file.", "content": {"image/webp": {}, "image/png": {}}},
        **UNCHANGED,
        **failures(
            "asset_not_found", "link_refused", "rate_limited", "store_unavailable", "internal_error"
        ),
    },
)
async def get_asset(
    request: Request,
    service: ServiceDep,
    uuid: Annotated[str, Path(description="The job.")],
    name: Annotated[
        str,
        Path(
            description=(
                "original.webp, overlay.webp, thumbnail.webp, mask_images/…, crops/… or source.…."
            )
        ),
    ],
) -> Response:
    """Masks, cut-outs, overlay and original, from the job's end until it expires.

    No key is needed, even where API_KEYS are set, since links go to browsers: whoever knows a job's
    uuid may see its files. Where ASSET_LINK_SECRET is set, the link needs a signature, or the
    request a key.
    """
    asset = await in_thread(find_asset, service, uuid, name)
    about_job(request, uuid)
    if knows(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=304, headers=asset.headers())
    headers = {**asset.headers(), "Content-Length": str(asset.info.size)}
    media_type = keys.content_type(name)
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media_type)
    return StreamingResponse(
        await in_thread(_stream, service, asset.info.key), headers=headers, media_type=media_type
    )


router.head("/assets/{uuid}/{name:path}", include_in_schema=False, dependencies=[RequireLinkOrKey])(
    get_asset
)


def find_asset(service: Service, uuid: str, name: str) -> Asset:
    """The file, if its name is published and its job has finished; else AssetNotFound. Blocking."""
    result = _result(service, uuid) if _PUBLISHED.fullmatch(name) else None
    info = service.store.head(keys.asset(uuid, name)) if result else None
    if result is None or info is None:
        raise AssetNotFound(f"job {uuid[:64]} has no file {name[:80]}, or it has expired.")
    return Asset(info, result.expires_at)


def _result(service: Service, uuid: str) -> Result | None:
    try:
        return service.repository.result(check_uuid(uuid))
    except InvalidUuid:
        return None


def _stream(service: Service, key: str) -> Iterator[bytes]:
    try:
        return service.store.stream(key)
    except ObjectNotFound as error:
        raise AssetNotFound("the file has just expired.") from error


def knows(if_none_match: str, etag: str) -> bool:
    """Whether the client has the file already, by weak comparison (RFC 9110, section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag.removeprefix("W/") in tags or "*" in tags
