"""The probes: liveness, readiness, idleness and metrics. Most need no key, as probes carry none."""

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from api import metrics
from api.auth import RequireKey
from api.openapi import failures
from api.schemas import Health, Readiness
from api.service import ServiceDep

router = APIRouter(tags=["health"])


@router.get(
    "/health",
    summary="The replaced service's check: 500 when nobody asked for a while",
    response_model=Health,
    responses={500: {"model": Health, "description": "No request for HEALTH_IDLE_SECONDS."}},
)
async def health(service: ServiceDep) -> Response:
    """200 until the first request, then 500 once `HEALTH_IDLE_SECONDS` have passed without one.

    0 turns that off. Every request but probes counts, until it is answered.
    """
    idle = service.activity.is_idle
    return JSONResponse({"status": "idle" if idle else "ok"}, 500 if idle else 200)


@router.get("/livez", summary="Does the process answer?", response_model=Health)
async def livez() -> Response:
    """200 as long as the event loop runs. It checks nothing else."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Would a job be accepted and worked on?",
    response_model=Readiness,
    responses={
        503: {
            "model": Readiness,
            "description": "Which of store, inbox, worker and fetcher is missing.",
        }
    },
)
async def readyz(request: Request) -> Response:
    """Checks store, inbox and workers, and fetchers if there is a picture to fetch.

    At most once a second.
    """
    checks = await request.app.state.readiness.checks()
    ready = all(check == "ok" for check in checks.values())
    return JSONResponse(
        {"status": "ready" if ready else "unavailable", "checks": checks}, 200 if ready else 503
    )


@router.get(
    "/metrics",
    summary="For Prometheus",
    dependencies=[RequireKey],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."},
        **failures("unauthorized", "rate_limited"),
    },
)
async def prometheus(request: Request, service: ServiceDep) -> Response:
    """The metrics of all processes, and this API's own requests. `docs/operating.md` lists them."""
    service.metrics.waiting.set(service.admission.waits.taken)
    service.metrics.listeners.set(service.admission.listeners.taken)
    families = await request.app.state.service_metrics.families()
    return Response(service.metrics.exposition(families), media_type=metrics.CONTENT_TYPE)


PROBES = frozenset(route.path for route in router.routes if isinstance(route, APIRoute))
"""The paths that load balancers and monitors ask, by address and often; no job comes by them."""
